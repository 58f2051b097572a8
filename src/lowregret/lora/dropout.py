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

    def __call__(self, x: Float[Tensor, "tokens d"], matrix: str) -> Float[Tensor, "tokens d"]:
        """x · mask / (1 − p), a new tensor."""
        generator = torch.Generator(device=x.device)
        generator.manual_seed(zlib.crc32(f"{self.seed}/{self.count}/{matrix}".encode()))
        kept = torch.empty_like(x, dtype=torch.float32).uniform_(generator=generator) >= self.probability
        return x * kept / (1 - self.probability)
