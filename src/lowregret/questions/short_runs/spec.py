"""One run for all lengths: which groups of trials tell how the best rate falls with the steps. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lowregret.questions.question import PlacedQuestion, Ranks, facts, loras
from lowregret.spec.data import DataSpec
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count


class ShortRunsQuestion(PlacedQuestion):
    """SCIENCE 3.3: is the ratio of best rates larger in short runs?

    One run at a constant rate passes through all shorter ones, so each trial serves every length.
    """

    TITLE: ClassVar[str] = "The learning rate of short runs"
    QUICK: ClassVar[dict[str, Any]] = {"steps": 200, "lengths": (25, 50, 100, 200), "ranks": (16,)}
    kind: Literal["short-runs"] = "short-runs"
    data: DataSpec = facts("size=512,wordings=6,test_size=128")
    steps: Count = 2000
    prune: None = None
    """No trial is stopped early: one that ends badly may be the best of the short ones."""
    ranks: Ranks = (16,)
    lengths: Annotated[tuple[Count, ...], Field(min_length=2)] = (25, 50, 100, 200, 400, 800, 2000)
    """Steps at which the best rates are compared, ascending; the last is the length of the runs."""

    @model_validator(mode="after")
    def _last_is_length(self) -> ShortRunsQuestion:
        if list(self.lengths) != sorted(set(self.lengths)) or self.lengths[-1] != self.steps:
            raise ValueError(f"lengths: must ascend and end with the {self.steps} steps of a run")
        if self.optimizer.schedule != "constant":
            raise ValueError("optimizer.schedule: only at a constant rate is a run's beginning a shorter run")
        return self

    def groups(self) -> tuple[GroupSpec, ...]:
        shared = {"bracket_at": self.lengths, "evals": self.lengths, "seeds_at": "bracket"}
        return self.pair("main", loras(self.ranks, self.targets), **shared)
