"""A base in NF4 holds the numbers that the QLoRA paper says, by an oracle of plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lowregret.models.four_bit import FourBitWeight

pytest.importorskip("bitsandbytes")

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""arXiv 2305.14314, appendix E."""


def eight_bits() -> Tensor:
    """The levels of dynamic tree quantisation with a sign (arXiv 2110.02861): 2ⁱ evenly spaced fractions in
    each decade, in the middle of their steps; zero and one."""
    found = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float64)
        middles = (edges[:-1] + edges[1:]) / 2
        found += [sign * 10.0 ** (decade - 6) * float(value) for value in middles for sign in (-1, 1)]
    return torch.tensor(found, dtype=torch.float64).sort().values


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    return levels[(values[..., None] - levels).abs().argmin(-1)]


def oracle(weight: Tensor) -> Tensor:
    """NF4 in blocks of 64, whose largest numbers are in 8 bits around their mean, in blocks of 256."""
    blocks = weight.double().reshape(-1, 64)
    largest = blocks.abs().amax(1)
    mean = largest.mean()
    padded = torch.nn.functional.pad(largest - mean, (0, -len(largest) % 256)).view(-1, 256)
    scale = padded.abs().amax(1, keepdim=True)
    shared = (nearest(padded / scale, eight_bits()) * scale).flatten()[: len(largest)] + mean
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    return (nearest(blocks / largest[:, None], levels) * shared[:, None]).view(weight.shape)


def agree(found: Tensor, expected: Tensor) -> None:
    """Of the 8-bit scales bitsandbytes takes a neighbour of the nearest level in about 2 of 1,000 blocks: those are off
    by a level of a scale, all others by nothing but rounding."""
    largest = expected.reshape(-1, 64).abs().amax(1, keepdim=True)
    off = ((found.double() - expected).reshape(-1, 64).abs() / largest).amax(1)
    assert (off < 2e-6).double().mean() > 0.995
    assert off.max() < 0.03


@pytest.mark.parametrize("shape", [(384, 128), (64, 8), (576, 192)])
def test_the_numbers_are_those_of_the_paper(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape) * 0.05
    found = FourBitWeight.of(weight).unpacked()
    agree(found, oracle(weight))
    assert (found - weight).abs().max() > 1e-3, "four bits are not all of it"


def test_experts_are_packed_each_by_itself() -> None:
    torch.manual_seed(0)
    experts = torch.randn(3, 96, 64) * torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    found = FourBitWeight.of(experts).unpacked()
    for one, alone in zip(found, experts, strict=True):
        assert torch.equal(one, FourBitWeight.of(alone).unpacked())
        assert float((one - alone).norm() / alone.norm()) < 0.1


def test_bytes_a_parameter() -> None:
    weight = FourBitWeight.of(torch.randn(1024, 1024))
    assert weight.packed_bytes / weight.numel() == pytest.approx(0.516, abs=1e-3)
