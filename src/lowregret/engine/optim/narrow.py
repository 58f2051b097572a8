"""float32 numbers in two bytes, or in three: rounded by chance, or with what rounding takes off beside them.

All is done on the bits: a bfloat16 is the upper half of a float32.
"""

from __future__ import annotations

import torch
from jaxtyping import BFloat16, Float32, Int8, Int32
from torch import Tensor

_LOW, _SIGNED = 0xFFFF, 2**32
_ODD = (0x7FEB352D, 0x846CA68B - _SIGNED)
"""Multipliers of a hash whose every output bit changes with every input bit in half of the cases: lowbias32 of
https://nullprogram.com/blog/2018/07/31/."""


def random_bits(count: int, key: int, device: torch.device) -> Int32[Tensor, " count"]:
    """32 bits for each of so many places, told by the place and the key alone: the same on every device and call."""
    found = torch.arange(count, dtype=torch.int32, device=device)
    found ^= _int32(key)
    for shift, factor in ((16, _ODD[0]), (15, _ODD[1])):
        found ^= (found >> shift) & (2 ** (32 - shift) - 1)
        found *= factor
    found ^= (found >> 16) & _LOW
    return found


def mixed(*numbers: int) -> int:
    """A key of several numbers."""
    key = len(numbers)
    for number in numbers:
        key = (key ^ (number & (_SIGNED - 1))) * 0x9E3779B1 % _SIGNED
        key ^= key >> 15
    return key


def round_by_chance(values: Float32[Tensor, " count"], key: int) -> BFloat16[Tensor, " count"]:
    """Each to one of its two neighbours, to the nearer the likelier, so that the mean is the value itself.

    What is no number, or infinite, stays so.
    """
    bits = values.view(torch.int32) + (random_bits(values.numel(), key, values.device) & _LOW)
    rounded = (bits & ~_LOW).view(torch.float32).to(torch.bfloat16)
    return torch.where(values.isfinite(), rounded, values.to(torch.bfloat16))


def split(values: Float32[Tensor, " count"]) -> tuple[BFloat16[Tensor, " count"], Int8[Tensor, " count"]]:
    """(the nearest, what is left in units of 1/256 of its last place): together 24 of the 32 bits, the rest rounded."""
    upper = (values.view(torch.int32) + 0x80) >> 8
    high = (upper + 0x80) >> 8
    rest = (upper - (high << 8)).to(torch.int8)
    finite = values.isfinite()
    nearest = (high << 16).view(torch.float32).to(torch.bfloat16)
    return torch.where(finite, nearest, values.to(torch.bfloat16)), torch.where(finite, rest, torch.zeros_like(rest))


def joined(high: BFloat16[Tensor, " count"], rest: Int8[Tensor, " count"]) -> Float32[Tensor, " count"]:
    """What `split` took apart."""
    upper = high.to(torch.float32).view(torch.int32) >> 8
    return ((upper + rest) << 8).view(torch.float32)


def _int32(number: int) -> int:
    number %= _SIGNED
    return number - _SIGNED if number >= _SIGNED // 2 else number
