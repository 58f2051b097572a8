"""The step in the backward pass: the same step, one gradient at a time; what it cannot keep is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.engine import Engine, step_params
from lowregret.engine.checks import after_step, announce, before_step
from lowregret.engine.optim.in_backward import InBackward
from lowregret.engine.policy import Policy
from lowregret.errors import LivenessError, SpecError
from lowregret.spec import AdamW, FullFT
from lowregret.spec.lean import kind_of
from lowregret.spec.optimizer import LeanKind, stepped_by

KINDS: tuple[LeanKind | None, ...] = (None, "bf16", "bf16-split", "adafactor", "muon")


def engine_with(bases: ModuleType, method: FullFT, base: str = "llama") -> tuple[Engine, Policy]:
    engine = Engine(bases.small_base(base), precision=kind_of(method).WEIGHTS)
    return engine, engine.add_policy("a", method)


def step(bases: ModuleType, engine: Engine, method: FullFT, number: int, rate: float = 1e-2) -> float:
    params = {"a": step_params(stepped_by(method.optimizer, AdamW(weight_decay=0.1)), rate / (1 + number))}
    announce(engine, params)
    engine.forward_backward({"a": collate(bases.examples(4, seed=number))})
    before_step(engine, ["a"])
    norm = engine.optim_step(params)["a"]
    after_step(engine, ["a"])
    return norm


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", ["llama", "qwen3"])  # qwen3's embedding is its unembedding
def test_it_is_the_step_after_the_pass_to_the_bit(bases: ModuleType, kind: LeanKind | None, base: str) -> None:
    found = []
    for in_backward in (False, True):
        method = FullFT(optimizer=kind, in_backward=in_backward)
        engine, policy = engine_with(bases, method, base)
        norms = [step(bases, engine, method, number) for number in range(3)]
        found.append((norms, bases.weights(policy), policy.optimizer.state()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert bases.same(found[0][1], found[1][1])
    assert bases.same(found[0][2], found[1][2])


def test_there_is_never_more_than_one_gradient(bases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, policy = engine_with(bases, FullFT(optimizer="bf16", in_backward=True))
    counts: list[int] = []
    moved = InBackward._step

    def counted(self: InBackward, own: Any, params: Any) -> None:
        counts.append(sum(weight.grad is not None for weight in policy.weights.values()))
        moved(self, own, params)

    monkeypatch.setattr(InBackward, "_step", counted)
    step(bases, engine, FullFT(optimizer="bf16", in_backward=True), 0)
    assert counts == [1] * len(policy.weights)
    assert all(weight.grad is None for weight in policy.weights.values())


def test_resumed_equals_uninterrupted_to_the_bit(bases: ModuleType, tmp_path: Path) -> None:
    method = FullFT(optimizer="bf16", in_backward=True)
    engine, whole = engine_with(bases, method)
    for number in range(4):
        if number == 2:
            engine.save("a", tmp_path / "state")
        step(bases, engine, method, number)
    engine, resumed = engine_with(bases, method)
    engine.load("a", tmp_path / "state")
    for number in range(2, 4):
        step(bases, engine, method, number)
    assert bases.same(bases.weights(resumed), bases.weights(whole))
    assert bases.same(resumed.optimizer.state(), whole.optimizer.state())


def test_what_it_cannot_keep_is_refused_by_name(bases: ModuleType) -> None:
    method = FullFT(in_backward=True)
    engine, _ = engine_with(bases, method)
    batch = {"a": collate(bases.examples(3))}
    with pytest.raises(SpecError, match="announce"):
        engine.forward_backward(batch)
    params = {"a": step_params(AdamW(), 1e-3)}
    with pytest.raises(SpecError, match="announce"):
        engine.optim_step(params)
    with pytest.raises(SpecError, match="clip_norm"):
        announce(engine, {"a": step_params(AdamW(clip_norm=1.0), 1e-3)})
    announce(engine, params)
    engine.forward_backward(batch)
    with pytest.raises(SpecError, match="one pass a step"):
        engine.forward_backward(batch)
    with pytest.raises(SpecError, match="announce"):
        engine.optim_step({"a": step_params(AdamW(), 2e-3)})


def test_a_dead_matrix_is_found_in_the_pass(bases: ModuleType) -> None:
    method = FullFT(in_backward=True)
    engine, _ = engine_with(bases, method)
    with pytest.raises(LivenessError, match="did not move"):
        step(bases, engine, method, 0, rate=1e-30)


def test_a_policy_that_is_gone_steps_nothing(bases: ModuleType) -> None:
    method = FullFT(in_backward=True)
    engine, policy = engine_with(bases, method)
    step(bases, engine, method, 0)
    engine.remove_policy("a")
    after = engine.add_policy("a", FullFT())
    before = bases.weights(policy)
    engine.forward_backward({"a": collate(bases.examples(3))})
    assert bases.same(bases.weights(after), before)
    assert all(weight.grad is not None for weight in after.weights.values())
    assert torch.isfinite(torch.tensor(engine.optim_step({"a": step_params(AdamW(), 1e-3)})["a"]))
