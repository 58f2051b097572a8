"""Variants of LoRA tuned alike, beside plain LoRA and full fine-tuning. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from lowregret.questions.question import Once, Question
from lowregret.spec.method import LoRA, Method
from lowregret.spec.study import GroupSpec


class VariantsQuestion(Question):
    """SCIENCE 5: tuned alike, are the published variants better than plain LoRA, and which forgets least?"""

    TITLE: ClassVar[str] = "Are the variants better?"
    QUICK: ClassVar[dict[str, Any]] = {"steps": 100}
    kind: Literal["variants"] = "variants"
    prune: None = None
    """No trial is stopped early: the fits need both neighbours of the best rate."""
    methods: Annotated[tuple[Method, ...], Once] = (
        LoRA(rank=16),
        LoRA(rank=16, init="pissa"),
        LoRA(rank=16, init="olora"),
        LoRA(rank=16, init="orthogonal"),
        LoRA(rank=16, scaling="alpha/sqrt(r)"),
        LoRA(rank=16, b_rate=16),
        LoRA(rank=16, dora=True),
    )
    """Plain LoRA first; the others are compared with it."""
    base_text: str = "builtin:corpus"
    """Held-out data of what the base was trained on: the loss on it tells what a method forgets."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return self.pair("main", self.methods, forgetting=self.base_text, seeds_at="bracket")
