"""Dropout of a LoRA's inputs, from random numbers that belong to one row of one policy alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Dropout:
    """One policy's dropout in one pass.

    The mask of a row is drawn from the policy's seed, the number of its optimizer step, the row's number in the batch
    of that step, and the matrix. So it depends neither on who shares the pass nor on how the batch is cut into passes,
    and can be drawn again: in the backward pass, under activation checkpointing, or after a resume.
    """

    probability: float
    seed: int
    step: int
    """Optimizer steps of this policy before this one."""
    rows: Sequence[tuple[int, int]]
    """(number in its batch, tokens) of each row that x consists of, in order."""
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of matrices of whose inputs x is a part: how many there are, and which is its first."""

    def __call__(self, x: Float[Tensor, "tokens d"], matrix: str) -> Float[Tensor, "tokens d"]:
        """x · mask / (1 − p), a new tensor."""
        generator = torch.Generator(device=x.device)
        whole, first = self.parts.get(matrix, (x.shape[1], 0))
        drawn = torch.empty(x.shape[0], whole, device=x.device)
        # Token by token: padding at the end of a row changes nothing before it.
        for (number, _), row in zip(self.rows, drawn.split([tokens for _, tokens in self.rows]), strict=True):
            generator.manual_seed(zlib.crc32(f"{self.seed}/{self.step}/{number}/{matrix}".encode()))
            row.uniform_(generator=generator)
        return x * (drawn[:, first : first + x.shape[1]] >= self.probability) / (1 - self.probability)
