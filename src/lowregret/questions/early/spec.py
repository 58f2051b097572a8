"""Ranks at one rate: which trials tell whether their curves begin alike. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lowregret.questions.question import Evaluations, Once, PlacedQuestion, Rank, loras
from lowregret.spec.study import GroupSpec, PositiveRate
from lowregret.spec.trial import Count


class EarlyQuestion(PlacedQuestion):
    """SCIENCE 3.4: at one rate, are the curves of all ranks the same at first?"""

    TITLE: ClassVar[str] = "The first steps"
    QUICK: ClassVar[dict[str, Any]] = {"ranks": (1, 4, 16, 64, 256)}
    kind: Literal["early"] = "early"
    steps: Count = 128
    evals: Evaluations = 16
    first_eval: Count = 1
    ranks: Annotated[tuple[Rank, ...], Field(min_length=2), Once] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    learning_rate: PositiveRate = 1e-3
    early_steps: Count = 8
    """What counts as early: the differences between ranks after so many steps are those of the claim."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return (self.group("main", loras(self.ranks, self.targets), learning_rates=(self.learning_rate,)),)
