"""How a LoRA starts."""

from __future__ import annotations

import math

import torch

from lowregret.lora.linear import LoRAWeights
from lowregret.models.targets import Matrix


def uniform(matrix: Matrix, rank: int, alpha: float, generator: torch.Generator) -> LoRAWeights:
    """A uniform on ±1/√d_in, B zero, scale alpha / rank (SCIENCE.md 2): the adapted base starts as the base, exactly.

    Drawn in float32 on the CPU, so that a seed gives the same adapter on every device.
    """
    bound = 1.0 / math.sqrt(matrix.d_in)
    a = torch.empty(rank, matrix.d_in).uniform_(-bound, bound, generator=generator)
    return LoRAWeights(a, torch.zeros(matrix.d_out, rank), alpha / rank)
