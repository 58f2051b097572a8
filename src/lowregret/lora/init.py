"""How a LoRA starts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.models.targets import Matrix


def uniform(
    matrix: Matrix, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """A uniform on ±1/√d_in, B zero (SCIENCE.md 2): the adapted base starts as the base, exactly.

    Drawn in float32 on the CPU, so that a seed gives the same adapter on every device.
    """
    bound = 1.0 / math.sqrt(matrix.d_in)
    a = torch.empty(rank, matrix.d_in).uniform_(-bound, bound, generator=generator)
    return a, torch.zeros(matrix.d_out, rank)
