"""Policies that share a pass do not share anything else."""

from __future__ import annotations

import gc
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import collate, passes
from lowregret.engine import AdamParams, Engine
from lowregret.spec import LoRA

# (method, learning rate, examples a step, longest example): no two alike in anything.
PACK: dict[str, tuple[LoRA, float, int, int]] = {
    "a": (LoRA(rank=1, alpha=8, targets=("attention",)), 3e-2, 2, 5),
    "b": (LoRA(rank=4, alpha=4, targets=("mlp", "unembedding")), 1e-2, 5, 16),
    "c": (LoRA(rank=7, targets=("attention", "mlp", "unembedding")), 3e-3, 3, 9),
}
STEPS = 10


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


# --- what differs between the members in every way that a step can ----------------------------------------------------

MIXED: dict[str, tuple[LoRA, AdamParams, int]] = {
    "plain": (LoRA(rank=1, targets=("attention",)), AdamParams(1e-3), 2),
    "decayed": (LoRA(rank=3, alpha=8), AdamParams(3e-4, beta1=0.8, beta2=0.99, weight_decay=0.3), 5),
    "clipped": (LoRA(rank=3, alpha=16), AdamParams(2e-3, clip_norm=0.05, eps=1e-6), 4),
    "dropped": (LoRA(rank=8, dropout=0.3), AdamParams(1e-3, weight_decay=0.1, clip_norm=1.0), 3),
    "everywhere": (LoRA(rank=6, dropout=0.1, targets=("attention", "mlp", "unembedding")), AdamParams(5e-4), 4),
}


def mixed_step(bases: ModuleType, engine: Engine, names: list[str], step: int) -> None:
    batches = {name: collate(bases.examples(MIXED[name][2], seed=100 * step + len(name), longest=30)) for name in names}
    engine.forward_backward(batches)
    engine.optim_step({name: MIXED[name][1] for name in names})


def mixed_engine(bases: ModuleType, architecture: str, names: list[str]) -> Engine:
    engine = Engine(bases.small_base(architecture))
    for name in names:
        engine.add_policy(name, MIXED[name][0], seed=len(name))
    return engine


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_ten_mixed_steps_in_float32_equal_those_alone(bases: ModuleType, architecture: str) -> None:
    """Relative to the weights' norm: single numbers with a gradient near zero are Adam's rounding."""
    pack = mixed_engine(bases, architecture, list(MIXED))
    start = {name: bases.weights(pack.policies[name]) for name in MIXED}
    for step in range(10):
        mixed_step(bases, pack, list(MIXED), step)
    for name in MIXED:
        alone = mixed_engine(bases, architecture, [name])
        for step in range(10):
            mixed_step(bases, alone, [name], step)
        mine, its = (
            torch.cat([weight.detach().flatten() for weight in engine.policies[name].weights.values()])
            for engine in (pack, alone)
        )
        assert bases.distance(torch.cat([value.flatten() for value in start[name].values()]), its) > 1e-3
        assert bases.distance(mine, its) < 1e-6, f"{architecture} {name}"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padding_free", [True, False])
def test_cutting_a_step_into_passes_changes_nothing_under_dropout(bases: ModuleType, padding_free: bool) -> None:
    """Masks belong to rows: not to passes, nor to company."""
    names = ["dropped", "everywhere"]
    batches = {name: collate(bases.examples(7, seed=len(name), longest=20)) for name in names}
    found = []
    for limit in (None, 30):
        engine = Engine(bases.double_base("llama"))
        engine.padding_free = padding_free
        for name in names:
            bases.stir(engine.add_policy(name, MIXED[name][0], seed=1))
        parts = passes(batches, limit)
        for part in parts:
            engine.forward_backward(part)
        found.append({name: [w.grad.clone() for w in engine.policies[name].weights.values()] for name in names})
    assert len(parts) > 3
    for name in names:
        whole, cut = (torch.cat([gradient.flatten() for gradient in way[name]]) for way in found)
        assert bases.distance(cut, whole) < 1e-9


def test_members_come_and_go_and_the_others_do_not_notice(bases: ModuleType) -> None:
    """One joins late, one leaves early, one diverges and is taken off; with moments and dropout under way."""
    stays = ["decayed", "dropped"]
    busy = mixed_engine(bases, "llama", ["clipped", *stays])
    for step in range(6):
        if step == 2:
            busy.remove_policy("clipped")
        if step == 3:
            busy.add_policy("plain", MIXED["plain"][0], seed=5)
        if step == 4:
            busy.add_policy("clipped", MIXED["clipped"][0], seed=7)
            with torch.no_grad():
                next(iter(busy.policies["clipped"].weights.values())).fill_(math.nan)
        if step == 5:
            busy.remove_policy("clipped")
        mixed_step(bases, busy, list(busy.policies), step)
    quiet = mixed_engine(bases, "llama", stays)
    for step in range(6):
        mixed_step(bases, quiet, stays, step)
    for name in stays:
        for key, weight in quiet.policies[name].weights.items():
            assert bases.distance(busy.policies[name].weights[key], weight) < 1e-5, f"{name} {key}"
    late = mixed_engine(bases, "llama", ["plain"])
    for step in range(3, 6):
        mixed_step(bases, late, ["plain"], step)
    for key, weight in late.policies["plain"].weights.items():
        assert bases.distance(busy.policies["plain"].weights[key], weight) < 1e-5


def test_gradients_wait_while_members_come_and_go(bases: ModuleType) -> None:
    engine = mixed_engine(bases, "qwen3", ["clipped", "decayed"])
    batch_of = collate(bases.examples(4, seed=3))
    engine.forward_backward({"decayed": batch_of})
    expected = {name: weight.grad.clone() for name, weight in engine.policies["decayed"].weights.items()}
    engine.remove_policy("clipped")
    engine.add_policy("clipped", MIXED["clipped"][0], seed=9)
    engine.forward_backward({"clipped": batch_of})
    found = {name: weight.grad for name, weight in engine.policies["decayed"].weights.items()}
    assert bases.same(found, expected)
    assert any(gradient.any() for gradient in expected.values())


def test_padding_of_ranks_stays_exactly_zero(bases: ModuleType) -> None:
    engine = mixed_engine(bases, "llama", list(MIXED))
    for step in range(5):
        mixed_step(bases, engine, list(MIXED), step)
    for policy in engine.policies.values():
        bank, rank = policy.bank, policy.method.rank  # type: ignore[attr-defined]
        for matrix in bank.matrices:
            assert not bank.a(matrix)[policy.slot, rank:].any()  # type: ignore[attr-defined]
            assert not bank.b(matrix)[policy.slot, :, rank:].any()  # type: ignore[attr-defined]
            assert bank.a(matrix)[policy.slot, :rank].all()  # type: ignore[attr-defined]


def test_saving_and_loading_in_the_middle_of_a_pack_changes_nothing(bases: ModuleType, tmp_path: Path) -> None:
    whole = mixed_engine(bases, "llama", list(MIXED))
    for step in range(3):
        mixed_step(bases, whole, list(MIXED), step)
    for name in MIXED:
        whole.save(name, tmp_path / f"{name}.safetensors")
    loaded = mixed_engine(bases, "llama", list(MIXED))
    for name in MIXED:
        loaded.load(name, tmp_path / f"{name}.safetensors")
    for engine in (whole, loaded):
        for step in range(3, 6):
            mixed_step(bases, engine, list(MIXED), step)
    for name in MIXED:
        assert bases.same(bases.weights(loaded.policies[name]), bases.weights(whole.policies[name]))


def test_memory_of_a_pack_is_its_adapters_gradients_and_moments(bases: ModuleType) -> None:
    """Sixteen numbers a parameter, and the base once."""
    engine = Engine(bases.small_base("llama"))
    names = [str(number) for number in range(6)]
    for name in names:
        engine.add_policy(name, LoRA(rank=4))
    data = collate(bases.examples(2, seed=0))
    engine.forward_backward(dict.fromkeys(names, data))
    engine.optim_step(dict.fromkeys(names, AdamParams(1e-3)))
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), torch.Tensor) and not tensor.is_meta
    }
    bank = engine.policies["0"].bank  # type: ignore[attr-defined]
    own = {bank.weights.untyped_storage().data_ptr(), bank.gradients.untyped_storage().data_ptr()}
    moments = [value for name in names for value in engine.policies[name].optimizer.state().values() if value.ndim]
    own |= {value.untyped_storage().data_ptr() for value in moments}
    trained = sum(engine.policies[name].trainable_parameters for name in names)
    assert sum(storages[place] for place in own) == 16 * trained
    assert sum(parameter.grad is not None for parameter in engine.model.parameters()) == 0


def test_a_policy_that_has_gone_leaves_no_memory_taken(bases: ModuleType) -> None:
    """At once, not when Python next looks for circles: a server may wait for that while gigabytes are held."""
    engine = Engine(bases.small_base("llama"))
    data = collate(bases.examples(2, seed=0))

    def taken() -> int:
        tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor) and not each.is_meta]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        return sum(storages.values())

    engine.add_policy("stays", LoRA(rank=4))
    engine.forward_backward({"stays": data})
    gc.collect()
    gc.disable()
    try:
        before = taken()
        engine.add_policy("goes", LoRA(rank=4))
        engine.remove_policy("goes")
        assert taken() == before
    finally:
        gc.enable()
