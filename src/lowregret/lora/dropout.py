"""Dropout of a LoRA's inputs, from random numbers that belong to one policy alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """One policy's dropout in one pass.

    A mask is drawn from the policy's seed, the number of its pass and the matrix, so it does not depend on who shares
    the pass, and can be drawn again: in the backward pass, under activation checkpointing, or after a resume.
    """

    probability: float
    seed: int
    count: int
    """Passes of this policy before this one."""
    rows: int = 1
    """Padded rows of equal length that x consists of; 1 when tokens lie end to end."""

    def __call__(self, x: Float[Tensor, "tokens d"], matrix: str) -> Float[Tensor, "tokens d"]:
        """x · mask / (1 − p), a new tensor."""
        generator = torch.Generator(device=x.device)
        generator.manual_seed(zlib.crc32(f"{self.seed}/{self.count}/{matrix}".encode()))
        # Drawn column by column: padding at the end of the rows changes nothing before it.
        drawn = torch.rand(x.shape[0] // self.rows, self.rows, x.shape[1], generator=generator, device=x.device)
        kept = (drawn >= self.probability).transpose(0, 1).reshape(x.shape)
        return x * kept / (1 - self.probability)
