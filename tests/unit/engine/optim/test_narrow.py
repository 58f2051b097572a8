"""float32 in fewer bits: what rounding by chance comes to in the mean, and what a remainder gives back."""

from __future__ import annotations

import math

import pytest
import torch

from lowregret.engine.optim.narrow import joined, mixed, random_bits, round_by_chance, split

VALUES = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 0.02


def test_rounding_by_chance_goes_to_a_neighbour_and_is_right_in_the_mean() -> None:
    drawn = torch.stack([round_by_chance(VALUES, mixed(5, key)).double() for key in range(512)])
    below = (VALUES.view(torch.int32) & ~0xFFFF).view(torch.float32).double()
    place = 2.0 ** (torch.frexp(VALUES).exponent - 8)
    assert bool(((drawn - below).abs() <= place).all())
    assert len(drawn.unique(dim=0)) > 500
    # Of one place the standard error of the mean is at most half a place over the root of the draws.
    assert float(((drawn.mean(0) - VALUES) / place).abs().max()) < 5 * 0.5 / math.sqrt(512)
    assert abs(float(((drawn.mean(0) - VALUES) / place).mean())) < 5 * 0.5 / math.sqrt(512 * len(VALUES))


def test_the_chance_is_told_by_key_and_place() -> None:
    assert torch.equal(round_by_chance(VALUES, 7), round_by_chance(VALUES.clone(), 7))
    assert not torch.equal(round_by_chance(VALUES, 7), round_by_chance(VALUES, 8))
    assert len({mixed(*numbers) for numbers in ((1, 2), (2, 1), (1, 3), (0, 1, 2), (1, 2, 0))}) == 5


@pytest.mark.parametrize("shift", range(16))
def test_every_bit_is_as_often_one_as_zero(shift: int) -> None:
    bits = (random_bits(20_000, mixed(3), torch.device("cpu")) >> shift) & 1
    assert abs(float(bits.float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(20_000)
    following = (bits[1:] == bits[:-1]).float().mean()
    assert abs(float(following) - 0.5) < 5 * 0.5 / math.sqrt(20_000)


def test_what_is_exact_in_bfloat16_stays() -> None:
    exact = VALUES.to(torch.bfloat16)
    assert torch.equal(round_by_chance(exact.float(), 3), exact)
    high, rest = split(exact.float())
    assert torch.equal(high, exact)
    assert not rest.any()


def test_a_remainder_gives_back_24_bits() -> None:
    high, rest = split(VALUES)
    assert float(((joined(high, rest) - VALUES) / VALUES).abs().max()) <= 2.0**-16
    assert float(((high.float() - VALUES) / VALUES).abs().max()) > 2.0**-10
    again = split(joined(high, rest))
    assert torch.equal(again[0], high)
    assert torch.equal(again[1], rest)


@pytest.mark.parametrize("bits", [0x7F800000, -0x00800000, 0x7FC00000, -0x00400000, 0x7FFFFFFF, 0, -(2**31)])
def test_infinities_zeros_and_what_is_no_number_stay(bits: int) -> None:
    """0x7fffffff is the NaN that a GPU makes: adding to it would leave a zero."""
    value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    for found in (round_by_chance(value, 9).float(), joined(*split(value)), split(value)[0].float()):
        assert torch.equal(found.nan_to_num(nan=12.0), value.nan_to_num(nan=12.0))
