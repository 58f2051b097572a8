"""Policies that share a pass do not share anything else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.spec import LoRA

# (method, learning rate, examples a step, longest example): no two alike in anything.
PACK: dict[str, tuple[LoRA, float, int, int]] = {
    "a": (LoRA(rank=1, alpha=8, targets=("attention",)), 3e-2, 2, 5),
    "b": (LoRA(rank=4, alpha=4, targets=("mlp", "unembedding")), 1e-2, 5, 16),
    "c": (LoRA(rank=7, targets=("attention", "mlp", "unembedding")), 3e-3, 3, 9),
}
STEPS = 10


@pytest.fixture
def float64() -> Iterator[None]:
    """Adam divides by the size of a gradient, so in float32 it would turn the rounding of near-zero ones into steps."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def packed_engine(bases: ModuleType, architecture: str, names: list[str], *, double: bool = False) -> Engine:
    engine = Engine((bases.double_base if double else bases.small_base)(architecture))
    for name in names:
        engine.add_policy(name, PACK[name][0], seed=ord(name))
    return engine


def batch(bases: ModuleType, name: str, step: int) -> Any:
    _, _, rows, longest = PACK[name]
    return collate(bases.examples(rows, seed=100 * step + ord(name), longest=longest))


def train(bases: ModuleType, engine: Engine, names: list[str], steps: int = STEPS, **adam: Any) -> None:
    for step in range(steps):
        engine.forward_backward({name: batch(bases, name, step) for name in names})
        engine.optim_step({name: AdamParams(PACK[name][1], **adam) for name in names})


@pytest.mark.usefixtures("float64")
def test_a_packed_policy_equals_the_same_policy_alone(bases: ModuleType, architecture: str) -> None:
    pack = packed_engine(bases, architecture, list(PACK), double=True)
    start = {name: bases.weights(pack.policies[name]) for name in PACK}
    train(bases, pack, list(PACK))
    for name in PACK:
        alone = packed_engine(bases, architecture, [name], double=True)
        train(bases, alone, [name])
        for key, weight in alone.policies[name].weights.items():
            assert bases.distance(start[name][key], weight) > 1e-2, f"{key} was not trained"
            assert bases.distance(pack.policies[name].weights[key], weight) < 1e-6, f"{architecture} {name} {key}"


def test_a_pass_of_many_gives_each_its_own_logprobs(bases: ModuleType, architecture: str) -> None:
    """In float32 too, and the bare base may ride along."""
    engine = Engine(bases.small_base(architecture))
    for number, name in enumerate(PACK):
        bases.adapted(engine, name, rank=number + 1, seed=number)
    batches = {**{name: batch(bases, name, 0) for name in PACK}, "base": batch(bases, "a", 1)}
    together = engine.forward(batches)
    for name, own in batches.items():
        alone = engine.forward({name: own})[name]
        assert torch.equal(together[name].supervised, own.supervised)
        torch.testing.assert_close(together[name].logprobs, alone.logprobs, rtol=0, atol=1e-5)
        assert float(together[name].loss) == pytest.approx(float(alone.loss), abs=1e-5)


def test_policies_not_named_in_a_step_are_not_touched(bases: ModuleType) -> None:
    """Though they carry gradients and moments, and though weight decay would move every weight."""
    engine = packed_engine(bases, "qwen3", list(PACK))
    train(bases, engine, list(PACK), steps=2, weight_decay=0.1)
    engine.forward_backward({name: batch(bases, name, 5) for name in PACK})
    before = {name: bases.weights(engine.policies[name]) for name in PACK}
    moments = {name: {k: v.clone() for k, v in engine.policies[name].optimizer.state().items()} for name in PACK}
    engine.optim_step({"b": AdamParams(1e-2, weight_decay=0.1)})
    for name in ("a", "c"):
        assert bases.same(bases.weights(engine.policies[name]), before[name])
        assert bases.same(engine.policies[name].optimizer.state(), moments[name])
    assert not bases.same(bases.weights(engine.policies["b"]), before["b"])


def test_gradients_of_policies_not_named_wait_for_their_step(bases: ModuleType) -> None:
    waiting, at_once = (packed_engine(bases, "qwen3", ["a", "b"]) for _ in range(2))
    for engine, delay in ((waiting, True), (at_once, False)):
        engine.forward_backward({"a": batch(bases, "a", 0)})
        if delay:
            engine.forward_backward({"b": batch(bases, "b", 0)})
            engine.optim_step({"b": AdamParams(1e-2)})
        engine.optim_step({"a": AdamParams(1e-2)})
    assert bases.same(bases.weights(waiting.policies["a"]), bases.weights(at_once.policies["a"]))


@pytest.mark.parametrize("where", ["lora_A", "lora_B"])
def test_a_nan_in_one_policy_leaves_its_neighbours_untouched(bases: ModuleType, architecture: str, where: str) -> None:
    healthy, sick = (packed_engine(bases, architecture, list(PACK)) for _ in range(2))
    with torch.no_grad():
        for name, weight in sick.policies["b"].weights.items():
            if name.endswith(where):
                weight.fill_(math.nan)
    for engine in (healthy, sick):
        train(bases, engine, list(PACK), steps=3)
    assert all(bool(weight.isnan().any()) for weight in sick.policies["b"].weights.values())
    for name in ("a", "c"):
        assert bases.same(bases.weights(sick.policies[name]), bases.weights(healthy.policies[name]))


def test_the_frozen_base_stays_as_it_was(bases: ModuleType) -> None:
    engine = packed_engine(bases, "llama", list(PACK))
    before = {name: parameter.clone() for name, parameter in engine.model.named_parameters()}
    train(bases, engine, list(PACK), steps=2, weight_decay=0.1)
    assert bases.same(dict(engine.model.named_parameters()), before)
    assert all(parameter.grad is None for parameter in engine.model.parameters())
