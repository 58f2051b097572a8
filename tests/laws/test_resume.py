"""Resumed equals uninterrupted, to the bit: weights, curve and last evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.batches import batch_indices
from lowregret.engine import Engine
from lowregret.runs.files import EXAMPLES, METRICS
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric
from lowregret.spec import AdamW, DataSpec, FullFT, LoRA, TrainingSpec, TrialSpec
from lowregret.spec.lean import kind_of, steps_in_backward
from lowregret.train.interrupt import Interrupted
from lowregret.train.sft.alone import run_trial

STEPS = 6
METHODS = [
    LoRA(rank=4, targets=("attention", "mlp", "unembedding")),
    FullFT(),
    FullFT(optimizer="bf16"),
    FullFT(optimizer="bf16-split", in_backward=True),
]


def specs(method: LoRA | FullFT, checkpoint_seconds: float) -> tuple[TrainingSpec, TrialSpec]:
    """A schedule, decay and clipping, so that the optimizer has something to remember; three evaluations."""
    whole = steps_in_backward(method)  # no clipping there, and one pass
    training = TrainingSpec(
        model="small",
        data=DataSpec(train="small"),
        batch_size=4,
        micro_batch_size=None if whole else 3,
        steps=STEPS,
        optimizer=AdamW(schedule="cosine", warmup_steps=2, weight_decay=0.1, clip_norm=None if whole else 0.5),
        evals=3,
        checkpoint_seconds=checkpoint_seconds,
    )
    return training, TrialSpec(method=method, learning_rate=5e-3, seed=3)


def start(bases: ModuleType, method: Any, folder: Path, *, checkpoint_seconds: float = 1e9, **watching: Any) -> Any:
    """A new engine on a new base, as in a new process; returns the policy when the trial ends."""
    engine = Engine(bases.small_base("qwen3"), precision=kind_of(method).WEIGHTS)
    policy = engine.add_policy("policy", method, seed=3)
    training, trial = specs(method, checkpoint_seconds)
    run_trial(engine, "policy", training, trial, bases.examples(18), bases.examples(9, seed=1), folder, **watching)
    return policy


@pytest.fixture(scope="module")
def whole(bases: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[Any, Path]]:
    """The uninterrupted trial of a method: its policy and its folder."""

    @cache
    def run(method: Any) -> tuple[Any, Path]:
        folder = tmp_path_factory.mktemp("whole")
        return start(bases, method, folder), folder

    return run


def records(folder: Path) -> tuple[list[Metric], bytes]:
    metrics = [metric.model_copy(update={"seconds": 0.0}) for metric in read_metrics(folder / METRICS)]
    return metrics, (folder / EXAMPLES).read_bytes()


class Crash(Exception):
    """Stands for whatever ends a process."""


def crash_after(step: int) -> dict[str, Any]:
    def on_step(trial: TrialSpec, steps: int, metric: Metric) -> None:
        if metric.step == step:
            raise Crash

    return {"on_step": on_step}


def stop_after(step: int) -> dict[str, Any]:
    calls = iter(range(1, STEPS + 1))
    return {"should_stop": lambda: next(calls) >= step}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("step", [1, 4, STEPS - 1])
@pytest.mark.parametrize(
    ("ended_by", "error", "checkpoint_seconds"),
    [(stop_after, Interrupted, 1e9), (crash_after, Crash, 0.0)],
    ids=["stopped", "crashed"],
)
def test_resumed_equals_uninterrupted(
    bases: ModuleType,
    tmp_path: Path,
    method: Any,
    step: int,
    ended_by: Callable[[int], dict[str, Any]],
    whole: Callable[[Any], tuple[Any, Path]],
    error: type[Exception],
    checkpoint_seconds: float,
) -> None:
    expected, folder = whole(method)
    with pytest.raises(error):
        start(bases, method, tmp_path / "parts", checkpoint_seconds=checkpoint_seconds, **ended_by(step))
    assert len(read_metrics(tmp_path / "parts" / METRICS)) == step
    taken: list[int] = []
    resumed = start(bases, method, tmp_path / "parts", on_step=lambda trial, steps, metric: taken.append(metric.step))
    # A crash in step n comes after its line and before its checkpoint: that step is repeated. A stop repeats none.
    assert taken == list(range(step if error is Crash else step + 1, STEPS + 1))
    assert bases.same(bases.weights(resumed), bases.weights(expected))
    assert bases.same(resumed.optimizer.state(), expected.optimizer.state())
    assert records(tmp_path / "parts") == records(folder)
    assert [m.step for m in read_metrics(tmp_path / "parts" / METRICS)] == list(range(1, STEPS + 1))


def test_crashing_in_every_step_still_ends_at_the_same_bit(bases: ModuleType, tmp_path: Path, whole: Any) -> None:
    """Each attempt repeats the step that the last one lost, and dies one step later."""
    expected, folder = whole(METHODS[0])
    for step in range(1, STEPS + 1):
        with pytest.raises(Crash):
            start(bases, METHODS[0], tmp_path / "parts", checkpoint_seconds=0, **crash_after(step))
    resumed = start(bases, METHODS[0], tmp_path / "parts")
    assert bases.same(bases.weights(resumed), bases.weights(expected))
    assert records(tmp_path / "parts") == records(folder)


def test_without_a_checkpoint_a_trial_starts_afresh(bases: ModuleType, tmp_path: Path, whole: Any) -> None:
    """Lines of the lost attempt do not stay in the curve."""
    expected, folder = whole(METHODS[0])
    with pytest.raises(Crash):
        start(bases, METHODS[0], tmp_path / "parts", **crash_after(4))
    assert bases.same(bases.weights(start(bases, METHODS[0], tmp_path / "parts")), bases.weights(expected))
    assert records(tmp_path / "parts") == records(folder)


def test_a_seed_decides_everything(bases: ModuleType, tmp_path: Path, whole: Any) -> None:
    """The same trial twice is the same to the bit; another seed is another trial."""
    expected, folder = whole(METHODS[0])
    again = start(bases, METHODS[0], tmp_path / "again")
    assert bases.same(bases.weights(again), bases.weights(expected))
    assert records(tmp_path / "again") == records(folder)
    engine = Engine(bases.small_base("qwen3"))
    other = engine.add_policy("policy", METHODS[0], seed=4)
    assert not any(
        torch.equal(weight, again.weights[name]) for name, weight in other.weights.items() if "lora_A" in name
    )
    orders = [batch_indices(18, 4, seed, step) for seed in (3, 4) for step in range(3)]
    assert orders[:3] != orders[3:]
