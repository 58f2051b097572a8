"""Batches with as many examples each: which groups of trials tell what a large batch costs. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lowregret.questions.question import Batch, Once, PlacedQuestion, Ranks, facts, loras
from lowregret.spec.data import DataSpec
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count


class BatchSizeQuestion(PlacedQuestion):
    """SCIENCE 3.5: does LoRA lose more than FullFT as the batch grows, whatever its rank?"""

    TITLE: ClassVar[str] = "How large may the batch be?"
    QUICK: ClassVar[dict[str, Any]] = {"batches": (4, 16, 64, 256), "examples": 2048}
    kind: Literal["batch-size"] = "batch-size"
    data: DataSpec = facts("size=256,wordings=6,test_size=128")
    batches: Annotated[tuple[Batch, ...], Field(min_length=2), Once] = (4, 8, 16, 32, 64, 128, 256)
    examples: Count = 4096
    """Training examples of every run, whatever its batch: the steps follow from it."""
    ranks: Ranks = (4, 64)

    @model_validator(mode="after")
    def _whole_steps(self) -> BatchSizeQuestion:
        uneven = [batch for batch in self.batches if self.examples % batch]
        if uneven:
            raise ValueError(f"examples: {self.examples} is no multiple of batch {uneven[0]}")
        return self

    def length(self) -> str:
        return f"{self.examples:,} examples"

    def groups(self) -> tuple[GroupSpec, ...]:
        found: list[GroupSpec] = []
        for index, batch in enumerate(self.batches):
            start = f"batch-{self.batches[index - 1]}" if index else None
            length = {"batch_size": batch, "steps": self.examples // batch}
            found += self.pair(f"batch-{batch}", loras(self.ranks, self.targets), start_from=start, **length)
        return tuple(found)
