"""Ranks over learning rates: which groups of trials tell where the best one lies. Torch-free."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lowregret.questions.question import PlacedQuestion, Ranks, loras
from lowregret.spec.study import GroupSpec


class LearningRateQuestion(PlacedQuestion):
    """SCIENCE 3.2: how far is LoRA's best rate above FullFT's, and does it move with rank?"""

    TITLE: ClassVar[str] = "Which learning rate?"
    QUICK: ClassVar[dict[str, Any]] = {"steps": 160, "ranks": (1, 4, 16, 64)}
    kind: Literal["learning-rate"] = "learning-rate"
    prune: None = None
    """No trial is stopped early: the U-curves are what is asked for."""
    ranks: Ranks = (1, 4, 16, 64, 128)

    def groups(self) -> tuple[GroupSpec, ...]:
        return self.pair("main", loras(self.ranks, self.targets), seeds_at="bracket")
