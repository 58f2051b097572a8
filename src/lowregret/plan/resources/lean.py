"""Full fine-tuning where AdamW over float32 does not fit: which optimizer does, and with how long rows. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowregret.plan.resources.budget import MemoryBudget
from lowregret.spec import FullFT

LEANER = (
    FullFT(optimizer="adamw8bit"),
    FullFT(optimizer="bf16-split"),
    FullFT(optimizer="bf16"),
    FullFT(optimizer="bf16-split", in_backward=True),
    FullFT(optimizer="bf16", in_backward=True),
)
"""In the order of what they change: each takes fewer bytes a parameter than the one before."""
MOST = 2**17
"""Tokens of a row, beyond which nobody asks."""


@dataclass(frozen=True)
class LeanFit:
    """A full fine-tuning that fits on one device."""

    method: FullFT
    checkpoint_activations: bool
    longest: int
    """Tokens of a row."""
    at_once: int
    """Rows at the least: one, or the batch where a step is one pass."""

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {
            "method": self.method.name,
            "checkpoint_activations": self.checkpoint_activations,
            "longest": self.longest,
            "at_once": self.at_once,
        }


def lean_fit(budget: MemoryBudget, context: int | None) -> LeanFit | None:
    """The first of LEANER that holds a row on the budget's one device, each with activations kept before computed
    twice; None when none does, or several devices are asked for, which hold weights in parts."""
    if budget.hardware is None or budget.devices > 1 or budget.mesh is not None:
        return None
    for method in LEANER:
        for again in dict.fromkeys((budget.checkpoint_activations, True)):
            tried = replace(budget, checkpoint_activations=again, offload_activations=False)
            if tried.fits(method):
                most = min(context or MOST, MOST)
                return LeanFit(method, again, tried.longest(method, most), tried.least(method))
    return None
