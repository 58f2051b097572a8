"""Policy-gradient losses against float64 sums written out by hand, and against TRL on the same samples."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lowregret.data.batches import Batch, collate
from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.engine.losses import (
    LOSSES,
    Loss,
    cispo,
    entropy_bonus,
    importance_sampling,
    kl_penalty,
    ppo_clip,
)
from lowregret.spec import FullFT

PROMPTS = [[random.Random(n).randrange(2, 64) for _ in range(n)] for n in (2, 5, 3, 4, 2, 6)]
LENGTHS = (4, 7, 1, 5, 8, 3)
POSITIONS = 40


def numbers(seed: int = 0) -> dict[str, Tensor]:
    """Log-probabilities that have moved away from the sampler's far enough for every clip to bind somewhere."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(POSITIONS, generator=generator, dtype=torch.float64)

    logprobs = -draw().abs() - 0.1
    return {
        "logprobs": logprobs,
        "weights": draw().abs() / POSITIONS,
        "advantages": draw(),
        "sampler_logprobs": logprobs - 0.5 * draw(),
        "reference_logprobs": logprobs - 0.5 * draw(),
    }


def by_hand(name: str, logprob: float, weight: float, advantage: float, old: float, base: float) -> tuple[float, float]:
    """One token's loss and its derivative by the log-probability, from the formulas alone."""
    ratio = math.exp(logprob - old)
    if name == "importance_sampling":
        return -weight * ratio * advantage, -weight * ratio * advantage
    if name == "ppo_clip":
        clipped = min(max(ratio, 0.8), 1.3)
        if ratio * advantage <= clipped * advantage:
            return -weight * ratio * advantage, -weight * ratio * advantage
        return -weight * clipped * advantage, 0.0
    if name == "cispo":
        capped = min(max(ratio, 0.8), 1.5)
        return -weight * capped * advantage * logprob, -weight * capped * advantage
    if name == "dro":
        return -weight * (advantage * logprob - 0.025 * (logprob - old) ** 2), -weight * (
            advantage - 0.05 * (logprob - old)
        )
    if name == "kl_penalty":
        other = math.exp(base - logprob)
        return weight * (other - 1 - math.log(other)), weight * (1 - other)
    if name == "entropy_bonus":
        return weight * ratio * logprob, weight * ratio * (1 + logprob)
    if name == "cross_entropy":
        return -weight * logprob, -weight
    raise NotImplementedError(f"{name}: write its formula here")


OPTIONS: dict[str, dict[str, float]] = {"ppo_clip": {"low": 0.2, "high": 0.3}, "cispo": {"low": 0.2, "high": 0.5}}
"""Of those losses that have some: at these every clip binds somewhere."""


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_and_its_gradient_are_the_formulas(name: str) -> None:
    loss, columns = partial(LOSSES[name].function, **OPTIONS.get(name, {})), LOSSES[name].columns
    given = numbers()
    logprobs = given["logprobs"].float().requires_grad_()
    value = loss(logprobs, given["weights"].float(), **{column: given[column].float() for column in columns})
    value.backward()  # type: ignore[no-untyped-call]
    rows = zip(*(given[key].tolist() for key in given), strict=True)
    values, slopes = zip(*(by_hand(name, *row) for row in rows), strict=True)
    assert value.item() == pytest.approx(math.fsum(values), abs=1e-5)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(slopes, abs=1e-5)


def test_the_expected_gradient_is_that_of_the_reward_whoever_draws() -> None:
    """Summed over all tokens that could be drawn, each as often as the sampler draws it: exact, no sampling error."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(9, generator=generator, dtype=torch.float64).requires_grad_()
    sampler = torch.randn(9, generator=generator, dtype=torch.float64).log_softmax(0)
    rewards = torch.randn(9, generator=generator, dtype=torch.float64)
    for draws in (sampler, logits.detach().log_softmax(0)):
        advantages = rewards - (draws.exp() * rewards).sum()
        found = importance_sampling(logits.log_softmax(0), draws.exp(), advantages=advantages, sampler_logprobs=draws)
        expected = -(logits.softmax(0) * rewards).sum()
        (ours,), (theirs,) = torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_expected_penalty_and_bonus_are_kl_and_entropy() -> None:
    generator = torch.Generator().manual_seed(4)
    logits, base, sampler = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    logits, base, sampler = logits.requires_grad_(), base.log_softmax(0), sampler.log_softmax(0)
    logprobs = logits.log_softmax(0)
    entropy = -(logprobs.exp() * logprobs).sum()
    for draws in (sampler, logprobs.detach()):
        bonus = entropy_bonus(logprobs, draws.exp(), sampler_logprobs=draws)
        assert bonus.item() == pytest.approx(-entropy.item(), abs=1e-12)
        (ours,) = torch.autograd.grad(bonus, logits, retain_graph=True)
        (theirs,) = torch.autograd.grad(-entropy, logits, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    penalty = kl_penalty(logprobs, logprobs.detach().exp(), reference_logprobs=base)
    divergence = (logprobs.exp() * (logprobs - base)).sum()
    assert penalty.item() == pytest.approx(divergence.item(), abs=1e-12)


# --- TRL -------------------------------------------------------------------------------------------------------------


def samples() -> tuple[list[Example], dict[str, list[list[float]]]]:
    """Completions of two groups of three, drawn by a policy that has moved on since."""
    draw = random.Random(1)
    rows, columns = [], defaultdict(list)
    rewards = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    for index, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        completion = [draw.randrange(2, 64) for _ in range(length)]
        rows.append(Example((*prompt, *completion), (False,) * len(prompt) + (True,) * length))
        group = rewards[index // 3 * 3 :][:3]
        columns["advantages"].append([rewards[index] - sum(group) / 3] * length)
        columns["sampler_logprobs"].append([-4 + draw.gauss(0, 0.5) for _ in range(length)])
        columns["reference_logprobs"].append([-4 + draw.gauss(0, 0.5) for _ in range(length)])
    return rows, columns


def batch_of(rows: list[Example], columns: dict[str, list[list[float]]]) -> Batch:
    batch = collate(rows)
    found = {}
    for name, values in columns.items():
        column = torch.zeros(batch.supervised.shape)
        column[batch.supervised] = torch.tensor([number for row in values for number in row])
        found[name] = column
    return replace(batch, columns=found)


def theirs(model: Any, columns: dict[str, list[list[float]]], rows: list[Example], **changed: Any) -> Tensor:
    """GRPOTrainer's own loss of these samples: prompts padded on the left, completions on the right."""
    grpo = pytest.importorskip("trl.trainer.grpo_trainer")

    def right(values: list[Any], side: str = "right") -> Tensor:
        tensors = [torch.tensor(row) for row in values]
        padded: Tensor = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_side=side)
        return padded

    completions = [list(row.token_ids[len(prompt) :]) for row, prompt in zip(rows, PROMPTS, strict=True)]
    inputs = {
        "prompt_ids": right(PROMPTS, "left"),
        "prompt_mask": right([[1] * len(prompt) for prompt in PROMPTS], "left"),
        "completion_ids": right(completions),
        "completion_mask": right([[1] * len(ids) for ids in completions]),
        "advantages": torch.tensor([row[0] for row in columns["advantages"]]),
        "old_per_token_logps": right(columns["sampler_logprobs"]),
        "ref_per_token_logps": right(columns["reference_logprobs"]),
        "num_items_in_batch": torch.tensor(sum(LENGTHS)),
    }

    def per_token(_: Any, ids: Tensor, mask: Tensor, keep: int, **others: Any) -> tuple[Tensor, Tensor, None]:
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -keep - 1 : -1]
        found = logits.log_softmax(-1)
        entropies = -(found.exp() * found).sum(-1)
        return found.gather(2, ids[:, -keep:, None])[:, :, 0], entropies, None

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=per_token,
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list)},
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        _entropy_bonus_enabled=False,
        **{"beta": 0.0, "loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.2, **changed},
    )
    loss: Tensor = grpo.GRPOTrainer._compute_loss(trainer, model, inputs)
    return loss


def penalised(logprobs: Tensor, weights: Tensor, *, reference_logprobs: Tensor, **columns: Tensor) -> Tensor:
    penalty = kl_penalty(logprobs, weights, reference_logprobs=reference_logprobs)
    return importance_sampling(logprobs, weights, **columns) + 0.3 * penalty


UNCLIPPED = {"epsilon_low": 1e9, "epsilon_high": 1e9}
PAIRS: dict[str, tuple[Loss, dict[str, Any]]] = {
    "importance_sampling": (importance_sampling, UNCLIPPED),
    "ppo_clip": (ppo_clip, {}),
    "cispo": (partial(cispo, high=0.2), {"loss_type": "cispo", "epsilon_high": 1.2}),
    "kl": (penalised, {**UNCLIPPED, "beta": 0.3}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_loss_and_gradient_of_trl_on_the_same_samples(bases: ModuleType, name: str, record_property: Any) -> None:
    base = bases.small_base("llama")
    model: Any = bases.copied(base)
    model.requires_grad_(True)
    engine = Engine(base)
    policy = engine.add_policy("policy", FullFT())
    loss, changed = PAIRS[name]
    rows, columns = samples()
    wanted = [key for key in columns if key != "reference_logprobs" or name == "kl"]
    batch = batch_of(rows, {key: columns[key] for key in wanted})
    ours = engine.forward_backward({"policy": batch}, loss)["policy"].loss
    expected = theirs(model, columns, rows, **changed)
    expected.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = dict(model.named_parameters())
    worst = max(float((weight.grad - gradients[key].grad).abs().max()) for key, weight in policy.weights.items())
    record_property("largest difference of a gradient", worst)
    assert worst < 1e-5
    assert max(float(weight.grad.abs().max()) for weight in policy.weights.values()) > 1e-2
