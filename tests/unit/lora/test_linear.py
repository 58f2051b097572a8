"""How a LoRA starts, and whose rows it is applied to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowregret.errors import TargetError
from lowregret.lora.init import uniform
from lowregret.lora.linear import LoRALinear, LoRAWeights, Routing
from lowregret.models.targets import Matrix

MATRIX = Matrix("m", "mlp", d_in=64, d_out=8)


def adapter(seed: int, d_in: int = 5, d_out: int = 4) -> LoRAWeights:
    torch.manual_seed(seed)
    return LoRAWeights(torch.randn(2, d_in), torch.randn(d_out, 2), 0.5)


def test_a_is_uniform_to_one_over_sqrt_d_in_and_b_is_zero() -> None:
    """SCIENCE.md 2; the spread of U(−1/√d, 1/√d) is 1/√(3d)."""
    weights = uniform(MATRIX, rank=256, alpha=32, generator=torch.Generator().manual_seed(0))
    assert weights.a.shape == (256, 64)
    assert weights.b.shape == (8, 256)
    assert weights.scale == 32 / 256
    assert weights.b.count_nonzero() == 0
    bound = 1 / math.sqrt(64)
    assert 0.99 * bound < float(weights.a.detach().abs().max()) <= bound
    assert float(weights.a.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert abs(float(weights.a.detach().mean())) < 0.02 * bound


def test_a_generator_decides_the_start() -> None:
    drawn = [uniform(MATRIX, 4, 32, torch.Generator().manual_seed(seed)).a for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_forward_and_delta_are_the_formula() -> None:
    weights, x = adapter(0), torch.randn(3, 7, 5)
    torch.testing.assert_close(weights(x), 0.5 * x @ weights.a.T @ weights.b.T)
    torch.testing.assert_close(weights.delta(), 0.5 * weights.b @ weights.a)


@pytest.mark.parametrize("layout", ["rows", "flattened", "positions"])
def test_each_policy_gets_its_own_part_and_the_rest_is_the_base(layout: str) -> None:
    routing = Routing()
    linear = LoRALinear(nn.Linear(5, 4), routing, unembedding=layout == "positions")
    linear.adapters = {"a": adapter(1), "b": adapter(2)}
    if layout == "positions":
        x = torch.randn(6, 5)
        routing.positions = [("a", 0, 2), ("base", 2, 3), ("b", 3, 6)]
        parts = {"a": slice(0, 2), "base": slice(2, 3), "b": slice(3, 6)}
    else:
        x = torch.randn(6, 3, 5)
        routing.rows, routing.length = [("a", 0, 2), ("base", 2, 3), ("b", 3, 6)], 3
        parts = {"a": slice(0, 2), "base": slice(2, 3), "b": slice(3, 6)}
        if layout == "flattened":
            x = x.flatten(0, 1)
            parts = {name: slice(3 * part.start, 3 * part.stop) for name, part in parts.items()}
    y = linear(x)
    for name, part in parts.items():
        expected = linear.base(x[part])
        if name != "base":
            expected = expected + linear.adapters[name](x[part])
        torch.testing.assert_close(y[part], expected)


def test_outside_a_pass_it_is_the_base() -> None:
    linear = LoRALinear(nn.Linear(5, 4), Routing())
    linear.adapters = {"a": adapter(1)}
    for x in (torch.randn(2, 3, 5), torch.randn(6, 5)):
        assert torch.equal(linear(x), linear.base(x))


def test_a_selection_of_positions_is_refused() -> None:
    """A router's choice: whose they are is not known."""
    linear = LoRALinear(nn.Linear(5, 4), Routing(rows=[("a", 0, 2)], length=3))
    linear.adapters = {"a": adapter(1)}
    with pytest.raises(TargetError, match=r"shape \(5, 5\) for a batch of 2 rows"):
        linear(torch.randn(5, 5))
