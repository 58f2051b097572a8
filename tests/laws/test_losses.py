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


@pytest.mark.parametrize("name", sorted(set(LOSSES) & set(get_args(RL.model_fields["estimator"].annotation))))
def test_a_policy_gradient_is_that_of_the_expected_advantage(name: str) -> None:
    """Samples of another policy, each token as often as that one draws it: the ratio makes up for it, exactly.

    With a clip so wide that it never binds. An inverted ratio, or one left out, gives another gradient.
    """
    generator = torch.Generator().manual_seed(1)
    logits, sampler, advantages = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    drawn = sampler.log_softmax(0)
    wide = {clip: 1e9 if clip == "high" else 1.0 for clip in LOSSES[name].clips}
    loss = LOSSES[name].function(
        logprobs=logits.log_softmax(0), weights=drawn.exp(), advantages=advantages, sampler_logprobs=drawn, **wide
    )
    (found,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(-(logits.softmax(0) * advantages).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_entropy_bonus_and_the_penalty_are_those_of_the_whole_distribution() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, other = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    drawn = other.log_softmax(0)
    bonus = losses.entropy_bonus(logits.log_softmax(0), drawn.exp(), sampler_logprobs=drawn)
    own = logits.log_softmax(0)
    (found,) = torch.autograd.grad(bonus, logits)
    (expected,) = torch.autograd.grad((own.exp() * own).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    penalty = losses.kl_penalty(own.detach(), own.detach().exp(), reference_logprobs=drawn)
    torch.testing.assert_close(penalty, (own.exp() * (own - drawn)).sum().detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value"),
    [(2.0, 1.0, -1.2), (0.5, 1.0, -0.5), (2.0, -1.0, 2.0), (0.5, -1.0, 0.8), (1.1, 1.0, -1.1)],
)
def test_ppo_takes_the_worse_of_the_ratio_and_its_clip(ratio: float, advantage: float, value: float) -> None:
    """By hand, with a clip of 0.2: a gain counts up to 1.2 and a loss from 0.8 on."""
    logprobs = torch.tensor([-1.0], dtype=torch.float64)
    found = losses.ppo_clip(
        logprobs,
        torch.ones(1, dtype=torch.float64),
        advantages=torch.tensor([advantage], dtype=torch.float64),
        sampler_logprobs=logprobs - torch.tensor([ratio], dtype=torch.float64).log(),
    )
    assert float(found) == pytest.approx(value)
