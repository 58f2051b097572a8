"""How replies of `lowregret chat` are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lowregret import limits
from lowregret.spec.base import Spec
from lowregret.spec.marks import MACHINE, Flag, Unit


class ChatSpec(Spec):
    """A conversation, with each of several models by itself."""

    system: str = ""
    """What the system says before the first turn; nothing when not given."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    """0 takes the most likely token; else it divides the logits before one is drawn."""
    max_tokens: Annotated[int | None, Unit("tokens")] = Field(default=None, ge=1, le=limits.TOKENS)
    """Longest reply; 512 when not given, or half of the base's positions where that is less."""
    seed: int = Field(default=0, ge=0, le=limits.SEED)
    """Draws the replies; all models draw by the same numbers."""
    chat_template: str | None = None
    """Which of the tokenizer's chat templates, where it has several; that of RUN, or the one that is called `default`,
    when not given."""
    precision: Annotated[Literal["auto", "float32", "bfloat16"] | None, Flag(group=MACHINE)] = None
    """Of the base and the arithmetic; that of RUN when not given, or auto: float32 on a CPU, bfloat16 on a GPU."""
    device: Annotated[str | None, Flag(group=MACHINE)] = None
    """Where to run: `cpu`, `cuda`, `cuda:1`, …; that of RUN when not given, or the first GPU if there is one."""
