"""Supervised fine-tuning of one policy: a pack of one, without a record of its own.

`examples/sft_loop.py` is its readable twin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.errors import DivergedError, RecordsError
from lowregret.runs.records import ExampleLosses
from lowregret.spec import TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress, read_checkpoint
from lowregret.train.loop import OnStep, Pack, rounds
from lowregret.train.sft.work import SFTWorkload


@dataclass(frozen=True)
class Trained:
    """A finished trial."""

    progress: Progress
    test_nll: float | None
    losses: ExampleLosses | None


def run_trial(
    engine: Engine,
    policy: str,
    spec: TrainingSpec,
    trial: TrialSpec,
    train: Sequence[Example],
    test: Sequence[Example],
    folder: Path,
    *,
    on_step: OnStep = lambda trial, steps, metric: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train `policy`, which is on the engine already, from its checkpoint in `folder` or from the start, to the end.

    Leaves metrics.jsonl and examples.json; there is no trial.json. Raises DivergedError, LivenessError, Interrupted or
    RecordsError (out of memory among them); what is on disk stays resumable.
    """
    pack = Pack(SFTWorkload(engine, spec, train, test), on_step)
    checkpoint = read_checkpoint(folder)
    progress = Progress()
    if checkpoint is not None:
        checkpoint.restore(engine, policy)
        progress = next(member.progress for member in checkpoint.members if member.name == policy)
    pack.join(policy, trial, folder, progress)
    (member, outcome), *_ = [each for done in rounds(pack, folder, should_stop) for each in done.ended]
    if outcome.status == "finished":
        found = outcome.evaluation
        if found is None:
            return Trained(member.progress, None, None)
        assert isinstance(found.examples, ExampleLosses)
        return Trained(member.progress, found.test_nll, found.examples)
    raise (DivergedError if outcome.status == "diverged" else RecordsError)(f"{folder}: {outcome.error}")
