"""Choices of matrices at matched parameters: which groups of trials compare them. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lowregret.questions.question import Once, Question
from lowregret.spec.method import DEFAULT_TARGETS, LINEAR_TARGETS, MOST_RANK, LoRA
from lowregret.spec.study import GroupSpec


class LayersQuestion(Question):
    """SCIENCE 3.6: which matrices should carry the adapter?"""

    TITLE: ClassVar[str] = "Which matrices?"
    QUICK: ClassVar[dict[str, Any]] = {"steps": 160, "ranks": (8,)}
    kind: Literal["layers"] = "layers"
    ranks: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_RANK // 2)], ...], Field(min_length=1), Once] = (4, 16)
    """Ranks of the MLP-only adapter. Attention alone has twice the rank, so that it has no fewer parameters."""

    def groups(self) -> tuple[GroupSpec, ...]:
        found = [
            LoRA(rank=factor * rank, targets=targets)
            for rank in self.ranks
            for targets, factor in (
                (("mlp",), 1),
                (("attention",), 2),
                (("attention",), 1),
                (LINEAR_TARGETS, 1),
                (DEFAULT_TARGETS, 1),
            )
        ]
        return self.pair("main", tuple(dict.fromkeys(found)))
