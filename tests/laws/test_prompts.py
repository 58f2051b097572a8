"""What rows of one prompt share is computed once: it changes the time that a pass takes, and nothing else."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial
from types import MethodType, ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lowregret.data.batches import Batch, collate, passes
from lowregret.data.example import Example
from lowregret.engine import AdamParams, Engine
from lowregret.engine.losses import importance_sampling
from lowregret.models.load import Base, Source
from lowregret.spec import FullFT, LoRA

GROUPS: dict[str, list[tuple[int, list[int]]]] = {
    "a": [(17, [3, 1, 9]), (11, [4]), (24, [7, 7])],
    "b": [(9, [2] * 6), (30, [1, 12])],
    "c": [(3, [5, 5]), (13, [8, 3, 8, 1])],
}
"""By policy: tokens of a prompt, and of its completions; with a group of one, and a prompt too short to be shared."""


def rollout(name: str, step: int = 0) -> Batch:
    """As the trainer makes them, in an order that mixes the groups."""
    draw = random.Random(f"{name} {step}")
    rows = []
    for number, (length, completions) in enumerate(GROUPS[name]):
        prompt = [draw.randrange(2, 64) for _ in range(length)]
        for own in completions:
            ids = (*prompt, *(draw.randrange(2, 64) for _ in range(own)))
            rows.append((number, Example(ids, (False,) * length + (True,) * own)))
    draw.shuffle(rows)
    batch = collate([row for _, row in rows])
    columns = {
        key: batch.supervised * torch.tensor([[draw.gauss(mean, 1)] for _ in rows], dtype=torch.float32)
        for key, mean in (("advantages", 0.0), ("sampler_logprobs", -3.0))
    }
    return replace(batch, columns=columns, prompts=torch.tensor([number for number, _ in rows]))


def unshared(batches: dict[str, Batch]) -> dict[str, Batch]:
    return {name: replace(batch, prompts=None) for name, batch in batches.items()}


def results(engine: Engine, parts: list[dict[str, Batch]]) -> dict[str, Tensor]:
    """Losses, log-probabilities by row, and gradients of these passes; gradients are zero afterwards."""
    found: dict[str, Tensor] = {}
    for part in parts:
        for name, result in engine.forward_backward(part, importance_sampling).items():
            found[f"{name} loss"] = found.get(f"{name} loss", torch.zeros(())) + result.loss
            rows = result.logprobs.split(part[name].supervised.sum(1).tolist())
            found |= {f"{name} row {n}": own for n, own in zip(part[name].numbers.tolist(), rows, strict=True)}
    for name in parts[0]:
        for key, weight in engine.policies[name].weights.items():
            assert weight.grad is not None
            found[f"{name} {key}"] = weight.grad.clone()
            weight.grad.zero_()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(float(value.abs().max()), 1.0)
        torch.testing.assert_close(found[key], value, rtol=0, atol=tolerance * scale, msg=lambda m, k=key: f"{k}: {m}")


def precise(base: Base) -> Base:
    """transformers' RMS norms round to float32 whatever they get: here they do not."""

    def forward(norm: Any, x: Tensor) -> Tensor:
        return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    for module in base.model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(forward, module)
    return base


def engine_of(bases: ModuleType, architecture: str, names: str, *, double: bool = True, **how: Any) -> Engine:
    base = precise(bases.double_base(architecture)) if double else bases.small_base(architecture)
    engine = Engine(base, **how)
    for number, name in enumerate(names):
        bases.adapted(engine, name, rank=number + 1, seed=number)
    return engine


def computed(engine: Engine, batches: dict[str, Batch]) -> int:
    return sum(engine._lay_out(batches).tokens)


ALL = ["llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_neox", "opt", "qwen3_moe", "deepseek_v3"]
ROUTED = {"qwen3_moe": 1e-6, "deepseek_v3": 1e-6}
"""Tolerance where routers compute in float32 whatever the base is in."""


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("architecture", ALL, indirect=True)
def test_policies_of_uneven_groups_get_the_same_from_shared_prompts(bases: ModuleType, architecture: str) -> None:
    engine = engine_of(bases, architecture, "abc")
    batches = {name: rollout(name) for name in "cab"}
    if engine.padding_free:
        assert computed(engine, batches) == sum(batch.tokens for batch in batches.values())
        assert computed(engine, batches) < 0.6 * computed(engine, unshared(batches))
    tolerance = ROUTED.get(architecture, 1e-10)
    assert_same(results(engine, [batches]), results(engine, [unshared(batches)]), tolerance)


def test_in_float32_they_do_so_too(bases: ModuleType) -> None:
    engine = engine_of(bases, "llama", "abc", double=False)
    batches = {name: rollout(name) for name in "abc"}
    assert_same(results(engine, [batches]), results(engine, [unshared(batches)]), 1e-5)


METHODS = [LoRA(rank=3, dora=True), LoRA(rank=2, targets=("attention",)), FullFT()]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe", "gpt2"], indirect=True)
def test_whatever_trains(bases: ModuleType, architecture: str, method: LoRA | FullFT) -> None:
    if architecture == "qwen3_moe" and isinstance(method, LoRA) and method.dora:
        method = LoRA(rank=4)
    engine = Engine(precise(bases.double_base(architecture)))
    policy = engine.add_policy("a", method)
    if isinstance(method, LoRA):
        bases.stir(policy)
    tolerance = 1e-5 if isinstance(method, FullFT) else ROUTED.get(architecture, 1e-10)  # FullFT trains in float32
    batches = {"a": rollout("a")}
    assert_same(results(engine, [batches]), results(engine, [unshared(batches)]), tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("window", [3, 10, 20, 64])
def test_a_sliding_window_reaches_into_a_shared_prompt_as_far_as_it_should(bases: ModuleType, window: int) -> None:
    """Shorter than completions, than prompts, than both together, and longer than everything."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(**bases.GROUPED, sliding_window=window)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    engine = Engine(precise(Base(model, bases.small_tokenizer(), Source("mistral", "mistral"))))
    assert engine.padding_free
    for number, name in enumerate("ab"):
        bases.adapted(engine, name, seed=number)
    batches = {name: rollout(name) for name in "ab"}
    assert_same(results(engine, [batches]), results(engine, [unshared(batches)]), 1e-10)


def test_each_row_gets_what_transformers_gives_it_alone(bases: ModuleType, architecture: str) -> None:
    base = bases.small_base(architecture)
    model = bases.copied(base)
    batch = rollout("a")
    rows = (
        Engine(base).forward({"base": batch}, temperature=1.0)["base"].logprobs.split(batch.supervised.sum(1).tolist())
    )
    for row, own in enumerate(rows):
        ids = batch.input_ids[row : row + 1, : int(batch.used[row])]
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        counts = batch.supervised[row, : ids.shape[1]]
        expected = logprobs.gather(1, batch.targets[row, : ids.shape[1], None])[:, 0][counts]
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("limit", [{"max_tokens": 40}, {"max_tokens": 90}, {"max_rows": 2}])
def test_cutting_a_step_into_passes_changes_nothing(bases: ModuleType, limit: dict[str, int]) -> None:
    engine = engine_of(bases, "qwen3", "abc")
    batches = {name: rollout(name) for name in "abc"}
    parts = passes(batches, **limit)
    assert len(parts) > 2
    every = {name: torch.zeros(()) for name in "abc"}
    found: dict[str, Tensor] = {}
    for part in parts:  # a policy may be in some of them only
        for name, result in engine.forward_backward(part, importance_sampling).items():
            every[name] = every[name] + result.loss
    for name in "abc":
        found[f"{name} loss"] = every[name]
        for key, weight in engine.policies[name].weights.items():
            found[f"{name} {key}"] = weight.grad.clone()
            weight.grad.zero_()
    expected = results(engine, [unshared(batches)])
    assert_same(found, {key: value for key, value in expected.items() if " row " not in key}, 1e-10)


def test_layers_computed_twice_give_the_same_to_the_bit(bases: ModuleType) -> None:
    plain, twice = (
        engine_of(bases, "llama", "ab", double=False, checkpoint_activations=again) for again in (False, True)
    )
    batches = {name: rollout(name) for name in "ab"}
    assert bases.same(results(twice, [batches]), results(plain, [batches]))


def test_a_policy_with_dropout_or_a_balance_loss_keeps_its_rows_apart(bases: ModuleType) -> None:
    """The first draws masks by rows, the second counts tokens. Its company shares all the same."""
    engine = Engine(bases.small_base("llama"))
    linear = (
        "attention",
        "mlp",
    )  # a stirred unembedding makes log-probabilities of -18, and ratios that round coarsely
    bases.stir(engine.add_policy("a", LoRA(rank=2, dropout=0.4, targets=linear)))
    bases.stir(engine.add_policy("b", LoRA(rank=2, targets=linear)))
    assert (engine.shares("a"), engine.shares("b"), engine.shares("base")) == (False, True, True)
    batches = {name: rollout(name) for name in "ab"}
    tokens = dict(zip(*(lambda laid: (laid.names, laid.tokens))(engine._lay_out(batches)), strict=True))
    assert tokens == {"a": int(batches["a"].used.sum()), "b": batches["b"].tokens}
    assert_same(results(engine, [batches]), results(engine, [unshared(batches)]), 1e-5)
    mixture = Engine(bases.small_base("qwen3_moe"), balance_experts=True)
    bases.stir(mixture.add_policy("a", LoRA(rank=4)))
    only = {"a": rollout("a")}
    assert not mixture.shares("a")
    assert bases.same(results(mixture, [only]), results(mixture, [unshared(only)]))


def test_a_nan_stays_with_its_policy(bases: ModuleType) -> None:
    healthy, sick = (engine_of(bases, "qwen3", "abc", double=False) for _ in range(2))
    with torch.no_grad():
        for weight in sick.policies["b"].weights.values():
            weight.fill_(math.nan)
    batches = {name: rollout(name) for name in "abc"}
    own, beside = (results(engine, [batches]) for engine in (healthy, sick))
    assert bool(beside["b loss"].isnan())
    neighbours = partial(filter, lambda item: not item[0].startswith("b "))
    assert bases.same(dict(neighbours(own.items())), dict(neighbours(beside.items())))


def test_training_ends_at_the_same_weights(bases: ModuleType) -> None:
    """Several updates, each after the last; Adam's eps keeps rounding from turning into steps."""
    together, apart = (engine_of(bases, "llama", "ab", double=False) for _ in range(2))
    start = {name: bases.weights(together.policies[name]) for name in "ab"}
    for step in range(4):
        batches = {name: rollout(name, step) for name in "ab"}
        for engine, own in ((together, batches), (apart, unshared(batches))):
            engine.forward_backward(own, importance_sampling)
            engine.optim_step(dict.fromkeys("ab", AdamParams(1e-2, eps=1e-3)))
    for name in "ab":
        for key, weight in apart.policies[name].weights.items():
            assert bases.distance(start[name][key], weight) > 1e-3
            assert bases.distance(together.policies[name].weights[key], weight) < 1e-4
