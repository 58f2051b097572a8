"""Steps timed on bases made for it, of several widths. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lowregret.questions.question import Once, PlacedQuestion, Ranks
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count


class ComputeQuestion(PlacedQuestion):
    """SCIENCE 3.9: time and memory of a LoRA step over those of a FullFT step, against theory.

    Measured on bases with random weights, one trial at a time, with nothing else running.
    """

    TITLE: ClassVar[str] = "What does it cost?"
    OWN: ClassVar[tuple[str, ...]] = ("model", "data", "eval_data")
    QUICK: ClassVar[dict[str, Any]] = {"widths": (128, 512), "ranks": (1, 16, 128), "repeats": 3}
    kind: Literal["compute"] = "compute"
    widths: Annotated[tuple[Count, ...], Field(min_length=1), Once] = (128, 256, 512, 1024)
    """Hidden sizes of the bases made for this, of `depth` layers each."""
    depth: Count = 4
    ranks: Ranks = (1, 4, 16, 64, 256)
    tokens: Count = 512
    """Of a step, in rows of 64."""
    repeats: Count = 5
    """Timed steps of each method, taken in turns."""

    @property
    def bases(self) -> tuple[str, ...]:
        return ()

    def setting(self) -> dict[str, str]:
        return {"Base": "made for this, random weights, one per width"}

    def groups(self) -> tuple[GroupSpec, ...]:
        return ()
