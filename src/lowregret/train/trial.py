"""A trial's record, from `running` to the way it ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowregret.engine import Engine
from lowregret.engine.device import out_of_memory
from lowregret.models.stops import stops
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.files import METRICS, TRIAL
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import PUT_ASIDE, TrialRecord
from lowregret.runs.shipped import digest_folder
from lowregret.spec import TrialSpec
from lowregret.train.checkpoint import Checkpoint, Progress, delete_checkpoint
from lowregret.train.loop import Pack, Round
from lowregret.train.members import Evaluation, Member, TrialOutcome
from lowregret.train.rl.rollout import unmoved
from lowregret.train.step import memory_advice

Deliver = Callable[[Engine, str, TrialRecord], Path | None]
"""(engine, policy, its record) → the folder of what was shipped, None for nothing: called before trial.json says
`finished`, so that what a trial ships exists by then."""


def begin(
    pack: Pack, trial: TrialSpec, folder: Path, checkpoint: Checkpoint | None = None, *, name: str | None = None
) -> TrialRecord:
    """Put a trial's policy on the engine under the trial's name, and let it join the pack; returns its record.

    `name` is what its record and its policy go by, its id when None. With a checkpoint, which must hold it, it goes on
    from there under the name that it has there. The record says `failed` when there was no memory for the policy, else
    `running`.
    """
    make_folder(folder)
    engine, progress, name = pack.workload.engine, Progress(), name or trial.id
    if checkpoint is not None:
        standing = checkpoint.standing(trial)
        name, progress = standing.name, standing.progress
    try:
        engine.add_policy(name, trial.method, trial.seed, optimizer=pack.workload.spec.optimizer.name)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        error_text = memory_advice(str(error))
        return _write(folder, TrialRecord.of(trial, **_facts(pack, name), status="failed", error=error_text))
    if checkpoint is not None:
        checkpoint.restore(engine, name)
    record = _write(folder, TrialRecord.of(trial, **_facts(pack, name), **_sizes(engine, name), status="running"))
    pack.join(name, trial, folder, progress)
    return record


def conclude(pack: Pack, member: Member, outcome: TrialOutcome, deliver: Deliver) -> TrialRecord:
    """Write how a trial ended, ship what it delivers, and take its policy off the engine.

    A diverged, pruned or out-of-memory trial is a result.
    """
    engine = pack.workload.engine
    record = TrialRecord.of(
        member.trial,
        **_facts(pack, member.name),
        **_sizes(engine, member.name),
        **_so_far(pack, member, outcome.evaluation),
        status=outcome.status,
        error=outcome.error,
        note=unmoved(read_metrics(member.folder / METRICS)) if outcome.status == "finished" else None,
        pruned_by=outcome.pruned_by,
    )
    if record.status == "finished":
        shipped = deliver(engine, member.name, record)
        if shipped is not None:
            left = {"shipped": digest_folder(shipped), "stop_texts": stops(engine.base).texts}
            record = record.model_copy(update=left)
    _write(member.folder, record)
    engine.remove_policy(member.name)
    return record


def pause(pack: Pack, done: Round, name: str) -> TrialRecord:
    """Take a trial that a round has measured out of the pack, to go on another time: how far it has come stands in its
    record, which stays `running`."""
    member = pack.pause(done, name)
    engine = pack.workload.engine
    facts = _facts(pack, name) | _sizes(engine, name) | _so_far(pack, member, member.evaluation)
    record = _write(member.folder, TrialRecord.of(member.trial, **facts, status="running"))
    engine.remove_policy(name)
    return record


def put_aside(folder: Path, record: TrialRecord) -> TrialRecord:
    """End a paused trial, in `folder`, whose comparison is complete without it: its checkpoint goes.

    It is recorded as `pruned`, at the step and with the loss that it had come to.
    """
    curve = read_metrics(folder / METRICS) if (folder / METRICS).exists() else []
    measured = [metric for metric in curve if metric.test_loss is not None][-1:]
    known: dict[str, Any] = {"steps": curve[-1].step, "tokens": curve[-1].tokens} if curve else {}
    for metric in measured:
        known |= {name: getattr(metric, name) for name in ("test_nll", "search_nll", "test_reward")}
    error = f"{PUT_ASIDE}the comparison was complete without it, after its step {known.get('steps', record.steps)}"
    ended = _write(folder, record.model_copy(update={**known, "status": "pruned", "error": error}))
    delete_checkpoint(folder)
    return ended


def _so_far(pack: Pack, member: Member, found: Evaluation | None) -> dict[str, Any]:
    """What a trial has taken, and what it was last measured at."""
    done = member.progress
    return {
        "test_nll": None if found is None else found.test_nll,
        "search_nll": None if found is None else found.search_nll,
        "test_examples": 0 if found is None else len(pack.workload.test),
        "test_reward": None if found is None else found.test_reward,
        "test_tokens": 0 if found is None else pack.workload.test_tokens,
        "steps": done.step,
        "tokens": done.tokens,
        "seconds": done.seconds,
        "evaluation_seconds": done.evaluation_seconds,
        "peak_memory_bytes": done.peak_memory_bytes,
        "pack_size": done.pack_size,
        "shared_seconds": done.shared_seconds,
        "shared_seconds_alone": done.shared_seconds_alone,
    }


def _facts(pack: Pack, name: str) -> dict[str, Any]:
    return {
        "inputs": pack.workload.identity or None,
        "id": name,
        "forward_path": pack.workload.engine.forward_path.description,
    }


def _sizes(engine: Engine, name: str) -> dict[str, int]:
    policy = engine.policies[name]
    return {"trainable_parameters": policy.trainable_parameters, "checkpoint_bytes": policy.trained_bytes}


def _write(folder: Path, record: TrialRecord) -> TrialRecord:
    write_json(folder / TRIAL, record)
    return record
