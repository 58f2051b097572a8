"""What a GPU does another way than a CPU is the same: its code runs here, on a CPU (`gpu_kernels.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_kernels import GPU
from lowregret.data.batches import Batch, collate, passes
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine import engine as engine_module
from lowregret.engine.forward import attention
from lowregret.lora.kernels import CPU, Kernels
from lowregret.spec import LoRA

METHODS = {
    "a": LoRA(rank=8, alpha=16),
    "b": LoRA(rank=8, alpha=4),
    "c": LoRA(rank=7, alpha=8),
    "other": LoRA(rank=4, targets=("attention",)),
}
"""Three neighbours in a bank, of unlike scales, and one of another bank."""
DROPPED = {"a": LoRA(rank=8, dropout=0.2), "b": LoRA(rank=8, dropout=0.5), "c": LoRA(rank=8)}


def engine(
    bases: ModuleType,
    patch: pytest.MonkeyPatch,
    kernels: Kernels,
    methods: Mapping[str, LoRA],
    *,
    base: str = "qwen3",
    **how: Any,
) -> Engine:
    patch.setattr(engine_module, "kernels_for", lambda device, dtype: kernels)
    found = Engine(bases.small_base(base), **how)
    for name, method in methods.items():
        bases.stir(found.add_policy(name, method, seed=ord(name[0])))
    return found


def batches(bases: ModuleType, names: Mapping[str, Any], step: int = 0) -> dict[str, Batch]:
    """No two of a length."""
    return {
        name: collate(bases.examples(2 + number, seed=step * 10 + number, longest=6 + 3 * number))
        for number, name in enumerate(names)
    }


def train(bases: ModuleType, trained: Engine, names: Mapping[str, Any], steps: int = 3) -> list[Tensor]:
    losses = []
    for step in range(steps):
        found = trained.forward_backward(batches(bases, names, step))
        losses += [result.loss for result in found.values()]
        trained.optim_step({name: AdamParams(1e-2) for name in names})
    return losses


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The groups of every grouped product."""
    calls, own = [], F.grouped_mm

    def counted(a: Tensor, b: Tensor, *, offs: Tensor) -> Tensor:
        calls.append(len(offs))
        assert offs.dtype is torch.int32
        return own(a, b, offs=offs)

    monkeypatch.setattr(F, "grouped_mm", counted)
    return calls


@pytest.mark.parametrize("base", ["qwen3", "llama", "phi3", "gpt2"])
def test_a_pack_trains_as_it_does_on_a_cpu(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, grouped: list[int], base: str
) -> None:
    calls, own = [], attention.varlen
    monkeypatch.setattr(attention, "varlen", lambda *args, **how: calls.append(1) or own(*args, **how))
    here, there = (engine(bases, monkeypatch, kernels, METHODS, base=base) for kernels in (CPU, GPU))
    assert there.padding_free
    expected, found = train(bases, here, METHODS), train(bases, there, METHODS)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=2e-5, atol=1e-5)
    for name in METHODS:
        for key, weight in there.policies[name].weights.items():
            assert bases.distance(here.policies[name].weights[key], weight) < 1e-3, (name, key)
    assert set(grouped) == {3}
    assert calls


def test_a_packed_policy_equals_the_same_policy_alone(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, whose masks go by rows, and the pack in passes of other rows than each alone."""
    pack = engine(bases, monkeypatch, GPU, DROPPED)
    for step in range(2):
        for part in passes(batches(bases, DROPPED, step), 40):
            pack.forward_backward(part)
        pack.optim_step({name: AdamParams(1e-2) for name in DROPPED})
    for name, method in DROPPED.items():
        alone = engine(bases, monkeypatch, GPU, {name: method}, checkpoint_activations=True)
        for step in range(2):
            alone.forward_backward({name: batches(bases, DROPPED, step)[name]})
            alone.optim_step({name: AdamParams(1e-2)})
        for key, weight in alone.policies[name].weights.items():
            assert bases.distance(pack.policies[name].weights[key], weight) < 1e-4, (name, key)
    plain = engine(bases, monkeypatch, GPU, {"a": LoRA(rank=8)})
    first = batches(bases, {"a": None})
    wet = engine(bases, monkeypatch, GPU, {"a": DROPPED["a"]})
    assert wet.forward_backward(first)["a"].loss != plain.forward_backward(first)["a"].loss


def test_resumed_equals_uninterrupted(bases: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole, first, second = (engine(bases, monkeypatch, GPU, {"a": DROPPED["a"]}) for _ in range(3))
    train(bases, whole, {"a": None}, steps=4)
    train(bases, first, {"a": None}, steps=2)
    first.save("a", tmp_path / "a")
    second.load("a", tmp_path / "a")
    for step in (2, 3):
        second.forward_backward(batches(bases, {"a": None}, step))
        second.optim_step({"a": AdamParams(1e-2)})
    assert bases.same(bases.weights(whole.policies["a"]), bases.weights(second.policies["a"]))


def test_in_bfloat16_the_same_to_rounding(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, grouped: list[int]
) -> None:
    """Beside the CPU's own way; ranks that are multiples of 8 are grouped, as their rows begin at 16 bytes."""
    here, there = (engine(bases, monkeypatch, kernels, METHODS, precision="bfloat16") for kernels in (CPU, GPU))
    first = batches(bases, METHODS)
    expected, found = here.forward_backward(first), there.forward_backward(first)
    for name in METHODS:
        torch.testing.assert_close(found[name].loss, expected[name].loss, rtol=0.02, atol=0.02)
        one, other = (each.policies[name]._flat.grad for each in (here, there))
        assert one is not None
        assert other is not None
        assert float((one - other).norm() / one.norm()) < 0.05, name
    assert set(grouped) == {3}


@pytest.mark.parametrize("kernels", [CPU, GPU])
def test_bfloat16_sees_a_weight_that_was_changed(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, kernels: Kernels
) -> None:
    """Between two passes, whoever changes it: a pass casts a bank once, and keeps no copy for the next."""
    changed = engine(bases, monkeypatch, kernels, METHODS, precision="bfloat16")
    first = batches(bases, METHODS)
    asked: Any = ({"b": [[5, 9, 4]]}, SamplingParams(max_tokens=2, temperature=0.0, stop_ids=()))
    drawn = changed.sample(*asked)["b"][0].logprobs
    before = {name: float(result.loss) for name, result in changed.forward(first).items()}
    with torch.no_grad():
        for weight in changed.policies["b"].weights.values():
            weight.mul_(1.5)
    assert changed.sample(*asked)["b"][0].logprobs != drawn
    after = {name: float(result.loss) for name, result in changed.forward(first).items()}
    assert after["b"] != before["b"]
    assert {name: loss for name, loss in after.items() if name != "b"} == {
        name: loss for name, loss in before.items() if name != "b"
    }
    changed.forward_backward(first)
    changed.optim_step({"c": AdamParams(0.1)})
    assert float(changed.forward(first)["c"].loss) != after["c"]


def test_a_bank_is_cast_once_a_pass(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not each A and B twice: of all that a pass copies into another type, one copy is as large as the bank's part."""
    trained = engine(bases, monkeypatch, CPU, METHODS, precision="bfloat16")
    first = batches(bases, METHODS)
    trained.forward_backward(first)
    with torch.profiler.profile(record_shapes=True) as seen:
        trained.forward_backward(first)
    rank = 8
    shapes = [event.input_shapes[0] for event in seen.events() if event.name == "aten::_to_copy"]
    assert [shape for shape in shapes if len(shape) == 2 and shape[0] == 3 and shape[1] > 1000]
    assert not [shape for shape in shapes if len(shape) == 3 and shape[0] == 3 and rank in shape]


def test_a_nan_stays_with_its_policy(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy, sick = (engine(bases, monkeypatch, GPU, METHODS) for _ in range(2))
    with torch.no_grad():
        for weight in sick.policies["b"].weights.values():
            weight.fill_(math.nan)
    for each in (healthy, sick):
        train(bases, each, METHODS, steps=2)
    for name in ("a", "c", "other"):
        assert bases.same(bases.weights(sick.policies[name]), bases.weights(healthy.policies[name]))
