"""Ranks on data of several sizes: which groups of trials tell where capacity runs out. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lowregret.questions.question import Once, PlacedQuestion, Ranks, facts, loras, sized
from lowregret.spec.data import DataSpec
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count


class RankQuestion(PlacedQuestion):
    """SCIENCE 3.1: do FullFT and high ranks coincide, and where do low ranks leave the common curve?"""

    TITLE: ClassVar[str] = "How much rank is enough?"
    QUICK: ClassVar[dict[str, Any]] = {"steps": 240, "ranks": (1, 4, 16, 64), "sizes": (32, 256)}
    kind: Literal["rank"] = "rank"
    data: DataSpec = facts("size={size},wordings=6,test_size=128")
    steps: Count = 800
    ranks: Ranks = (1, 2, 4, 8, 16, 32, 64, 128)
    sizes: Annotated[tuple[Count, ...], Field(min_length=1), Once] = (32, 128, 512)
    """Data sizes: what stands for `{size}` in `data.train`, or the first so many training examples."""
    tolerance: float = Field(default=0.005, gt=0, lt=1)
    """Regret below this share of the FullFT loss is none."""

    def groups(self) -> tuple[GroupSpec, ...]:
        # Each size searches for itself: a few trials more, and none that another core waits for.
        pairs = (
            self.pair(f"size-{size}", loras(self.ranks, self.targets), data=sized(self.data, size))
            for size in self.sizes
        )
        return tuple(group for pair in pairs for group in pair)
