"""The same groups of trials on bases that differ in width. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lowregret.questions.question import Once, PlacedQuestion, Ranks, loras, plain
from lowregret.spec.study import GroupSpec


class ScalingQuestion(PlacedQuestion):
    """Which claims drift with the size of the base?"""

    TITLE: ClassVar[str] = "What changes with the size of the base?"
    OWN: ClassVar[tuple[str, ...]] = ("model",)
    QUICK: ClassVar[dict[str, Any]] = {"steps": 160, "ranks": (1, 16)}
    kind: Literal["scaling"] = "scaling"
    prune: None = None
    """No trial is stopped early: the fits need both neighbours of the best rate."""
    models: Annotated[tuple[str, ...], Field(min_length=2), Once] = ("tiny-32", "tiny-64", "tiny")
    """Bases made alike that differ in width, in any order."""
    ranks: Ranks = (1, 16, 64)

    @property
    def bases(self) -> tuple[str, ...]:
        return ()

    def groups(self) -> tuple[GroupSpec, ...]:
        found: list[GroupSpec] = []
        for model in self.models:
            found += self.pair(plain(model), loras(self.ranks, self.targets), model=model, seeds_at="bracket")
        return tuple(found)
