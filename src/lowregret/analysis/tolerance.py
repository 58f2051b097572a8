"""Up to which regret LoRA's is low: the share that a comparison asks for, in the regret's unit."""

from __future__ import annotations

from lowregret.spec import CompareSpec

SHARE_OF = {"learned": "what full fine-tuning learns", "loss": "full fine-tuning's loss"}
"""What `CompareSpec.tolerance` is a share of, in words."""


def tolerance_of(spec: CompareSpec, full_loss: float | None, learned: float | None) -> float | None:
    """Regret up to which it is low, in the regret's unit: so much reward, or a share of what FullFT learned or lost.

    None where FullFT came to no loss, or has learned nothing of which there were a share.
    """
    if full_loss is None or spec.objective.kind == "rl":
        return None if full_loss is None else spec.tolerance
    if spec.tolerance_of == "loss":
        return spec.tolerance * full_loss
    return spec.tolerance * learned if learned is not None and learned > 0 else None


def tolerance_share(spec: CompareSpec, base_nll: float, learned: float) -> float:
    """The tolerance as a share of what FullFT is expected to learn."""
    return spec.tolerance * ((base_nll - learned) / learned if spec.tolerance_of == "loss" else 1.0)
