"""One step of several trials: who diverges, and what happens to a pass that does not fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import Batch
from lowregret.engine import Engine
from lowregret.spec import DataSpec, LoRA, TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress
from lowregret.train.members import Member, StepResult, TrialOutcome, enter
from lowregret.train.sft.work import SFTStepper, SFTWorkload, evaluate, evaluate_within_memory

NAMES = ("a", "b", "c")


def start(bases: ModuleType, folder: Path, **changed: Any) -> tuple[SFTWorkload, list[Member]]:
    engine = Engine(bases.small_base("qwen3"))
    spec = TrainingSpec(model="small", data=DataSpec(train="small"), batch_size=4, steps=3, **changed)
    task = SFTWorkload(engine, spec, bases.examples(18), [])
    members = []
    for seed, name in enumerate(NAMES):
        trial = TrialSpec(method=LoRA(rank=2 + seed), learning_rate=1e-2, seed=seed)
        engine.add_policy(name, trial.method, seed)
        members.append(enter(task, name, trial, folder / name, Progress()))
    return task, members


def small_memory(engine: Engine, tokens: int, never: str = "") -> list[int]:
    """The engine's passes break off beyond so many tokens, or with a row of `never`, gradients left half done."""
    whole, sizes = engine.forward_backward, []

    def forward_backward(batches: Mapping[str, Batch]) -> Any:
        size = sum(batch.tokens for batch in batches.values())
        sizes.append(size)
        found = whole(batches)
        if never in batches or size > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    engine.forward_backward = forward_backward  # type: ignore[method-assign,assignment]
    return sizes


def test_a_pass_that_does_not_fit_is_halved_and_nothing_counts_twice(bases: ModuleType, tmp_path: Path) -> None:
    task, members = start(bases, tmp_path / "whole")
    expected, _ = SFTStepper(task)(members)
    other, same = start(bases, tmp_path / "parts")
    sizes = small_memory(other.engine, 30)
    take = SFTStepper(other)
    found, _ = take(same)
    assert max(sizes) > 30
    for name in NAMES:
        ours, theirs = found[name], expected[name]
        assert isinstance(ours, StepResult)
        assert isinstance(theirs, StepResult)
        assert ours.train_nll == pytest.approx(theirs.train_nll, rel=1e-6)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
        for key, weight in other.engine.policies[name].weights.items():
            torch.testing.assert_close(weight, task.engine.policies[name].weights[key], rtol=1e-4, atol=1e-6)
    tried = len(sizes)
    for member in same:
        member.progress = Progress(step=1)
    take(same)
    assert max(sizes[tried:]) <= 30, "what was learnt is kept"


def test_one_whose_row_never_fits_fails_alone(bases: ModuleType, tmp_path: Path) -> None:
    task, members = start(bases, tmp_path)
    small_memory(task.engine, 10**9, never="b")
    before = bases.weights(task.engine.policies["b"])
    found, _ = SFTStepper(task)(members)
    failed = found["b"]
    assert isinstance(failed, TrialOutcome)
    assert failed.status == "failed"
    assert "lower --micro-batch-size" in str(failed.error)
    assert isinstance(found["a"], StepResult)
    assert isinstance(found["c"], StepResult)
    assert bases.same(bases.weights(task.engine.policies["b"]), before)


def test_an_explicit_micro_batch_size_is_not_second_guessed(bases: ModuleType, tmp_path: Path) -> None:
    task, members = start(bases, tmp_path, micro_batch_size=2)
    sizes = small_memory(task.engine, 1)
    found, _ = SFTStepper(task)(members)
    assert {name: getattr(what, "status", "taken") for name, what in found.items()} == dict.fromkeys(NAMES, "failed")
    assert len(sizes) == 1


def test_another_error_is_no_lack_of_memory(bases: ModuleType, tmp_path: Path) -> None:
    task, members = start(bases, tmp_path)

    def broken(batches: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    task.engine.forward_backward = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        SFTStepper(task)(members)


@pytest.mark.parametrize("times", [1.9, 2.1])
def test_a_loss_beyond_twice_the_first_ends_a_trial_and_no_other(
    bases: ModuleType, tmp_path: Path, times: float
) -> None:
    """Guessing uniformly over 64 tokens gives ln 64 = 4.16 nats; the first loss counts where it is larger."""
    task, members = start(bases, tmp_path)
    whole = task.engine.forward_backward

    def scaled(batches: Any) -> Any:
        found = whole(batches)
        object.__setattr__(found["a"], "loss", torch.tensor(5.0 * times))
        return found

    task.engine.forward_backward = scaled  # type: ignore[method-assign]
    members[0].first_nll = 5.0
    before = bases.weights(task.engine.policies["a"])
    found, _ = SFTStepper(task)(members)
    first = found["a"]
    assert isinstance(first, TrialOutcome) == (times > 2)
    if isinstance(first, TrialOutcome):
        assert first.status == "diverged"
        assert "and the first step's was 5.00" in str(first.error)
        assert bases.same(bases.weights(task.engine.policies["a"]), before)
    assert isinstance(found["b"], StepResult)


@pytest.mark.parametrize("most", [1, 0])
def test_an_evaluation_that_does_not_fit_together_is_done_one_by_one(
    bases: ModuleType, tmp_path: Path, most: int
) -> None:
    task, _ = start(bases, tmp_path)
    test = bases.examples(9, seed=1)
    expected = evaluate(task.engine, NAMES, test)
    whole = task.engine.evaluate

    def limited(policies: Any, examples: Any) -> Any:
        if len(policies) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(policies, examples)

    task.engine.evaluate = limited  # type: ignore[method-assign]
    found = evaluate_within_memory(task.engine, NAMES, test)
    for name in NAMES:
        one = found[name]
        if most:
            assert not isinstance(one, TrialOutcome)
            assert one.nll_sums == pytest.approx(expected[name].nll_sums, rel=1e-5)
        else:
            assert isinstance(one, TrialOutcome)
            assert one.status == "failed"


def test_an_update_without_room_for_its_moments_fails(bases: ModuleType, tmp_path: Path) -> None:
    task, members = start(bases, tmp_path)

    def refuse(params: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    task.engine.optim_step = refuse  # type: ignore[method-assign]
    found, _ = SFTStepper(task)(members)
    assert {getattr(what, "status", "taken") for what in found.values()} == {"failed"}
