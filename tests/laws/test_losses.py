"""What holds for every loss in the registry: sums over weighted tokens, with the gradient that the value has."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest
import torch
from torch import Tensor

from lowregret.engine import losses
from lowregret.engine.losses import LOSSES
from lowregret.spec.rl import DEFAULT_CLIP, RL

POSITIONS = 30
every_loss = pytest.mark.parametrize("name", LOSSES)


def numbers(name: str, seed: int = 0) -> dict[str, Tensor]:
    """What a loss takes, float64: log-probabilities far enough from the columns for every clip to bind somewhere."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(POSITIONS, generator=generator, dtype=torch.float64)

    logprobs = -draw().abs() - 0.1
    columns = {
        column: logprobs - 0.5 * draw() if column.endswith("_logprobs") else draw() for column in LOSSES[name].columns
    }
    return {"logprobs": logprobs, "weights": draw().abs() / POSITIONS, **columns}


def value_and_gradient(name: str, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logprobs = given["logprobs"].clone().requires_grad_()
    value = LOSSES[name].function(**{**given, "logprobs": logprobs})
    (gradient,) = torch.autograd.grad(value, logprobs)
    return value.detach(), gradient


def test_every_loss_of_the_module_is_in_the_registry() -> None:
    """A loss is a function of log-probabilities and weights; one that is not registered would be held to nothing."""
    found = {
        name
        for name, function in vars(losses).items()
        if inspect.isfunction(function) and list(inspect.signature(function).parameters)[:2] == ["logprobs", "weights"]
    }
    assert found == {name for name, entry in LOSSES.items() if entry.function is getattr(losses, name, None)}


@pytest.mark.parametrize("estimator", get_args(RL.model_fields["estimator"].annotation))
def test_an_estimator_that_the_spec_offers_is_a_loss_of_samples(estimator: str) -> None:
    entry = LOSSES[estimator]
    assert entry.columns == LOSSES["importance_sampling"].columns
    assert set(entry.clips) <= set(inspect.signature(entry.function).parameters)
    assert bool(entry.clips) == (estimator in DEFAULT_CLIP), "a clip has a default where it is of use, and nowhere else"


@every_loss
def test_a_loss_declares_the_columns_that_it_takes(name: str) -> None:
    """What it takes beside them has a default."""
    _, _, *others = inspect.signature(LOSSES[name].function).parameters.values()
    assert all(other.kind is inspect.Parameter.KEYWORD_ONLY for other in others)
    assert tuple(o.name for o in others if o.default is inspect.Parameter.empty) == LOSSES[name].columns


@every_loss
def test_a_loss_adds_up_over_any_split(name: str) -> None:
    given = numbers(name)
    whole, gradient = value_and_gradient(name, given)
    order = torch.randperm(POSITIONS, generator=torch.Generator().manual_seed(1))
    for cut in (1, 7, POSITIONS // 2):
        parts = [
            value_and_gradient(name, {key: value[part] for key, value in given.items()})
            for part in (order[:cut], order[cut:])
        ]
        torch.testing.assert_close(sum(value for value, _ in parts), whole, rtol=1e-12, atol=1e-12)
        joined = torch.cat([part for _, part in parts])
        torch.testing.assert_close(joined, gradient[order], rtol=1e-12, atol=1e-12)
    nothing, none = value_and_gradient(name, {key: value[:0] for key, value in given.items()})
    assert (float(nothing), none.numel()) == (0.0, 0)


@every_loss
def test_tokens_without_weight_do_not_matter(name: str) -> None:
    """Whatever their other numbers are."""
    given = numbers(name)
    idle = torch.arange(POSITIONS) % 3 == 0
    given["weights"] = torch.where(idle, 0.0, given["weights"])
    value, gradient = value_and_gradient(name, given)
    assert bool(gradient[~idle].any())
    assert not bool(gradient[idle].any())
    other = {key: torch.where(idle, 3 * numbers(name, seed=2)[key], kept) for key, kept in given.items()}
    other["weights"] = given["weights"]
    changed, same = value_and_gradient(name, other)
    torch.testing.assert_close(changed, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(same, gradient, rtol=1e-12, atol=1e-12)


@every_loss
def test_the_gradient_is_that_of_the_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By central differences in float64; what a loss detaches stays at the point."""
    given = numbers(name)
    point = given["logprobs"]
    _, gradient = value_and_gradient(name, given)
    steps = 1e-6 * torch.eye(POSITIONS, dtype=torch.float64)
    function = LOSSES[name].function
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "detach", lambda self: point)
        slopes = [
            (function(**{**given, "logprobs": point + h}) - function(**{**given, "logprobs": point - h})) / 2e-6
            for h in steps
        ]
    torch.testing.assert_close(gradient, torch.stack(slopes), rtol=1e-7, atol=1e-8)
    assert bool(gradient.any())
