"""Dropout's masks from the place of each number alone, for devices on which a generator for each row is slow.

A mask is a function of the policy's seed, the number of its optimizer step, the row's number in the batch of that step,
the token's place in the row, the matrix, and the column: as `Dropout` has it, by other numbers. All tokens of a pass
are drawn at once, in whole-number operations that give the same bits on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor

from lowregret.lora.dropout import Dropout
from lowregret.lora.kernels import moved_together

STEPS = 2**16
"""A probability is taken to the next multiple of one such part: a mask is decided by 16 bits."""
_LANES = 4
"""Columns that share a word of 64 bits."""
_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""The constants of splitmix64 (Steele, Lea and Flood, 2014), as whole numbers with a sign."""


@dataclass(frozen=True)
class CountedMasks:
    """The dropout of some policies whose tokens follow each other in a pass."""

    dropouts: tuple[Dropout | None, ...]
    sizes: tuple[int, ...]
    """Tokens of each."""
    device: torch.device
    _columns: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def __call__(self, x: Float[Tensor, "tokens d"], matrix: str) -> Float[Tensor, "tokens d"]:
        """x · mask / (1 − p), each policy's tokens by its own p, a new tensor."""
        keys, least, gain = self._of_tokens
        parts = next((each.parts for each in self.dropouts if each is not None), {})
        first = parts.get(matrix, (x.shape[1], 0))[1]
        dropped = x * (self._lanes(keys, matrix, first, x.shape[1]) >= least)
        return dropped.mul_(gain)

    def _lanes(
        self, keys: Int64[Tensor, " tokens"], matrix: str, first: int, count: int
    ) -> Int16[Tensor, "tokens count"]:
        """Whole numbers, evenly from −2¹⁵ to 2¹⁵ − 1: those of `count` columns from `first` on."""
        start = first // _LANES
        words = keys[:, None] * self._of_columns(matrix, start, -(-(first + count) // _LANES))
        low, high = words.view(torch.int32).unflatten(1, (-1, 2)).unbind(2)
        low.bitwise_xor_(high)  # what a product mixes well are its high bits
        words.mul_(_SECOND)
        low.bitwise_xor_(high)
        skipped = first - start * _LANES
        return words.view(torch.int16)[:, skipped : skipped + count]

    def _of_columns(self, matrix: str, start: int, stop: int) -> Int64[Tensor, " groups"]:
        """One for each four columns of a matrix; kept, for the backward pass needs them again."""
        if matrix not in self._columns:
            groups = torch.arange(start, stop, device=self.device)
            self._columns[matrix] = _mixed(groups * _GOLDEN + _word(matrix))
        return self._columns[matrix]

    @cached_property
    def _of_tokens(self) -> tuple[Int64[Tensor, " tokens"], Int16[Tensor, "tokens one"], Float[Tensor, "tokens one"]]:
        """Of each token its key, an odd number; the least lane that stays; and what it is multiplied by then."""
        keys, least, gain = [], [], []
        for dropout, size in zip(self.dropouts, self.sizes, strict=True):
            share = 0 if dropout is None else min(round(dropout.probability * STEPS), STEPS - 1)
            keys.append(torch.ones(size, dtype=torch.int64) if dropout is None else _keys(dropout))
            least.append(torch.full((size, 1), share - STEPS // 2, dtype=torch.int16))
            gain.append(torch.full((size, 1), STEPS / (STEPS - share), dtype=torch.float32))
        moved = moved_together([torch.cat(keys), torch.cat(least), torch.cat(gain)], self.device)
        return moved[0], moved[1], moved[2]


def _keys(dropout: Dropout) -> Int64[Tensor, " tokens"]:
    """One for each token of a policy's rows."""
    found = []
    for number, tokens in dropout.rows:
        start = _word(f"{dropout.seed}/{dropout.step}/{number}")
        found.append(_mixed(torch.arange(tokens) * _GOLDEN + start) | 1)
    return torch.cat(found)


def _word(text: str) -> int:
    """64 bits of a text, with a sign."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _mixed(x: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Every bit of a word in every bit of another, one to one: the end of splitmix64."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Int64[Tensor, " n"], bits: int) -> Int64[Tensor, " n"]:
    """To the right, zeros first: torch's own shift keeps the sign."""
    found: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return found


def counted(dropouts: Sequence[Dropout | None], sizes: Sequence[int], device: torch.device) -> CountedMasks | None:
    """The masks of policies with so many tokens each; None where none has a dropout."""
    return CountedMasks(tuple(dropouts), tuple(sizes), device) if any(dropouts) else None
