"""What one trainer stores and moves on a GPU that another does not. Torch-free.

A plan is for our engine. Other people's measurements are of other trainers: what sets these apart is named here, so
that the rest of the counts can be held to them (docs/findings/2026-11-29-plan-beside-peft-comparison.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from lowregret.spec.optimizer import NUMBER_BYTES


@dataclass(frozen=True)
class Trainer:
    """Where trainers differ; the defaults are our engine's."""

    full_bytes: int = NUMBER_BYTES
    """Of a weight, its gradient and each number that the optimizer keeps of it, in FullFT. Adapters are float32."""
    frozen_float32: bool = True
    """Whether a tied unembedding, which is the embedding, stays in float32 while frozen, and is cast for products."""
    extra_passes: int = 1
    """Times that a step reads or writes one number of each weight that trains, beyond what the optimizer must
    (`OptimizerSpec.step_traffic`): the gradient's norm."""
    adapter_in: float = 8.0
    """Bytes that an adapted matrix moves for each token and input, forward and backward, beside its base: x is read by
    x Aᵀ and again for A's gradient, and dx is read and written (lora/linear.py; bfloat16)."""
    adapter_out: float = 8.0
    """The same for each output: y is read and written, and dy read by dy B and again for B's gradient."""


ENGINE = Trainer()
