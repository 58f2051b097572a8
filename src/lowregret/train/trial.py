"""One trial with its record: from `running` to the way it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowregret.data.chat import Example
from lowregret.engine import Engine
from lowregret.errors import DivergedError
from lowregret.records import Metric, TrialRecord, make_folder, read_metrics, write_json
from lowregret.spec import TrainingSpec, TrialSpec
from lowregret.train.checkpoint import delete_checkpoint
from lowregret.train.sft import METRICS, Hooks, Pruned, run_trial

RECORD = "trial.json"
POLICY = "policy"
Deliver = Callable[[Engine, str, TrialRecord], object]
"""(engine, policy, its record): called before trial.json says `finished`, so that what a trial ships exists by then."""


@dataclass(frozen=True)
class Task:
    """What all trials of a run share."""

    engine: Engine
    spec: TrainingSpec
    train: Sequence[Example]
    test: Sequence[Example]


def record_trial(task: Task, trial: TrialSpec, folder: Path, hooks: Hooks, deliver: Deliver) -> TrialRecord:
    """Run a trial, or go on with it, and write trial.json; returns the record of how it ended.

    A diverged, pruned or out-of-memory trial is a result. LivenessError, RecordsError and Interrupted are raised, and
    the record stays `running`: the same command meets it again.
    """
    make_folder(folder)
    facts: dict[str, Any] = {
        "id": trial.id,
        "method": trial.method.name,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "spec": trial,
    }

    def settle(**ending: Any) -> TrialRecord:
        record = TrialRecord(**facts, **ending)
        if record.status == "finished":
            deliver(task.engine, POLICY, record)
        write_json(folder / RECORD, record)
        delete_checkpoint(folder)
        return record

    try:
        policy = task.engine.add_policy(POLICY, trial.method, trial.seed)
        facts |= {
            "trainable_parameters": policy.trainable_parameters,
            "checkpoint_bytes": 4 * policy.trainable_parameters,
        }
        write_json(folder / RECORD, TrialRecord(**facts, status="running"))
        outcome = run_trial(task.engine, POLICY, task.spec, trial, task.train, task.test, folder, hooks)
        return settle(
            status="finished",
            test_nll=outcome.test_nll,
            test_tokens=outcome.test_tokens,
            steps=outcome.progress.step,
            tokens=outcome.progress.tokens,
            seconds=outcome.progress.seconds,
            peak_memory_bytes=outcome.progress.peak_memory_bytes,
        )
    except Pruned as pruned:
        done = pruned.progress
        return settle(
            status="pruned",
            error=str(pruned),
            test_nll=pruned.test_nll,
            test_tokens=sum(example.supervised_tokens for example in task.test),
            steps=done.step,
            tokens=done.tokens,
            seconds=done.seconds,
            peak_memory_bytes=done.peak_memory_bytes,
        )
    except DivergedError as error:
        return settle(status="diverged", error=str(error), **_so_far(folder))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        words = f"out of memory: {error} Run the same command with a lower --micro-batch-size: the trial starts again."
        return settle(status="failed", error=words, **_so_far(folder))
    finally:
        if POLICY in task.engine.policies:
            task.engine.remove_policy(POLICY)


def _out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on GPUs; its CPU allocator only has words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _so_far(folder: Path) -> dict[str, Any]:
    """What the curve knows of a trial that broke off."""
    metrics: list[Metric] = read_metrics(folder / METRICS)
    last = metrics[-1] if metrics else None
    return {"steps": last.step, "tokens": last.tokens, "seconds": last.seconds} if last else {}
