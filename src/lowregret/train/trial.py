"""One trial with its record: from `running` to the way it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowregret.data.chat import Example
from lowregret.engine import Engine
from lowregret.errors import DivergedError, LivenessError
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
    the record then says `failed` or, for what can be resumed, stays `running`.
    """
    make_folder(folder)
    policy = task.engine.add_policy(POLICY, trial.method, trial.seed)
    facts: dict[str, Any] = {
        "id": trial.id,
        "method": trial.method.name,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "spec": trial,
        "trainable_parameters": policy.trainable_parameters,
        "checkpoint_bytes": 4 * policy.trainable_parameters,
    }

    def settle(**ending: Any) -> TrialRecord:
        record = TrialRecord(**facts, **ending)
        if record.status == "finished":
            deliver(task.engine, POLICY, record)
        write_json(folder / RECORD, record)
        delete_checkpoint(folder)
        return record

    try:
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
    except LivenessError as error:
        settle(status="failed", error=str(error), **_so_far(folder))
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        words = f"out of memory: {error}. Lower --micro-batch-size or --max-length."
        return settle(status="failed", error=words, **_so_far(folder))
    finally:
        task.engine.remove_policy(POLICY)


def _so_far(folder: Path) -> dict[str, Any]:
    """What the curve knows of a trial that broke off."""
    metrics: list[Metric] = read_metrics(folder / METRICS)
    last = metrics[-1] if metrics else None
    return {"steps": last.step, "tokens": last.tokens, "seconds": last.seconds} if last else {}
