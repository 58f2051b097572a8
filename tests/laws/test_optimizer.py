"""AdamW against its formula in float64 (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lowregret.engine.optimizer import AdamParams, PolicyOptimizer, by_name

SHAPES = {"a": (5, 3), "b": (4,)}


def adamw(
    weights: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]], steps: list[AdamParams]
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The weights after these steps, and the gradient norms before clipping."""
    weights = {name: weight.astype(np.float64) for name, weight in weights.items()}
    first = {name: np.zeros_like(weight) for name, weight in weights.items()}
    second = {name: np.zeros_like(weight) for name, weight in weights.items()}
    norms = []
    for t, (raw, p) in enumerate(zip(gradients, steps, strict=True), start=1):
        norms.append(float(np.sqrt(sum((gradient.astype(np.float64) ** 2).sum() for gradient in raw.values()))))
        # torch divides by the norm + 1e-6
        scale = 1.0 if p.clip_norm is None else min(1.0, p.clip_norm / (norms[-1] + 1e-6))
        for name, gradient in raw.items():
            g = gradient.astype(np.float64) * scale
            first[name] = p.beta1 * first[name] + (1 - p.beta1) * g
            second[name] = p.beta2 * second[name] + (1 - p.beta2) * g**2
            m, v = first[name] / (1 - p.beta1**t), second[name] / (1 - p.beta2**t)
            weights[name] = weights[name] - p.learning_rate * p.weight_decay * weights[name]
            weights[name] -= p.learning_rate * m / (np.sqrt(v) + p.eps)
    return weights, norms


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_ten_steps_equal_the_formula(clip_norm: float | None, weight_decay: float) -> None:
    """The rate changes from step to step, and some gradients lie under the clip norm."""
    draw = np.random.default_rng(0)
    start = {name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    sizes = [1.0, 0.01, 1.0, 0.01, 3.0, 1.0, 1.0, 0.1, 1.0, 1.0]
    gradients = [
        {name: (size * draw.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()} for size in sizes
    ]
    steps = [
        AdamParams(0.05 / (1 + step), 0.9, 0.95, 1e-3, weight_decay=weight_decay, clip_norm=clip_norm)
        for step in range(10)
    ]
    expected, norms = adamw(start, gradients, steps)
    if clip_norm is not None:
        assert min(norms) < clip_norm < max(norms)

    weights = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    optimizer = PolicyOptimizer(by_name(weights), gradients_stay=False)
    reported = []
    for gradient, params in zip(gradients, steps, strict=True):
        for name, weight in weights.items():
            weight.grad = torch.from_numpy(gradient[name].copy())
        reported.append(float(optimizer.step(params)))
        assert all(weight.grad is None for weight in weights.values()), "a step must clear the gradients"
    assert reported == pytest.approx(norms, rel=1e-6)
    for name, weight in weights.items():
        np.testing.assert_allclose(weight.detach().numpy(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_weight_without_gradient_is_left_alone() -> None:
    weights = {name: nn.Parameter(torch.ones(shape)) for name, shape in SHAPES.items()}
    optimizer = PolicyOptimizer(by_name(weights), gradients_stay=False)
    weights["a"].grad = torch.ones(SHAPES["a"])
    assert float(optimizer.step(AdamParams(0.1, weight_decay=0.5))) == pytest.approx(15**0.5)
    assert torch.equal(weights["b"], torch.ones(SHAPES["b"]))
    assert not torch.equal(weights["a"], torch.ones(SHAPES["a"]))


def test_a_restored_optimizer_goes_on_to_the_bit() -> None:
    def run(split: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        weights = {name: nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
        optimizer = PolicyOptimizer(by_name(weights), gradients_stay=False)
        for step in range(6):
            if split and step == 3:
                state = {key: value.clone() for key, value in optimizer.state().items()}
                weights = {name: nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}
                optimizer = PolicyOptimizer(by_name(weights), gradients_stay=False)
                optimizer.load_state(state)
            for weight in weights.values():
                weight.grad = torch.randn(weight.shape)
            optimizer.step(AdamParams(0.1, weight_decay=0.1, clip_norm=1.0))
        return {name: weight.detach() for name, weight in weights.items()}

    whole, split = run(False), run(True)
    assert all(torch.equal(whole[name], split[name]) for name in SHAPES)
