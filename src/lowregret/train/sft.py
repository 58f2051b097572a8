"""Supervised fine-tuning of one policy: a pack of one, without a record of its own.

`examples/sft_loop.py` is its readable twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.data.chat import Example
from lowregret.engine import Engine
from lowregret.errors import DivergedError, RecordsError
from lowregret.records import ExampleLosses
from lowregret.spec import TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress, read_checkpoint
from lowregret.train.pack import Hooks, Pack, run_pack
from lowregret.train.step import Ending, Member, Task


@dataclass(frozen=True)
class Outcome:
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
    hooks: Hooks | None = None,
) -> Outcome:
    """Train `policy`, which is on the engine already, from its checkpoint in `folder` or from the start, to the end.

    Leaves metrics.jsonl and examples.json; there is no trial.json. Raises DivergedError, LivenessError, Interrupted or
    RecordsError (out of memory among them); what is on disk stays resumable.
    """
    pack = Pack(Task(engine, spec, train, test), hooks or Hooks())
    checkpoint = read_checkpoint(folder)
    progress = Progress()
    if checkpoint is not None:
        checkpoint.restore(engine, policy)
        progress = next(member.progress for member in checkpoint.members if member.name == policy)
    pack.join(policy, trial, folder, progress)
    endings: list[tuple[Member, Ending]] = []
    run_pack(pack, folder, refill=lambda: None, settle=lambda member, ending: endings.append((member, ending)))
    member, ending = endings[0]
    if ending.status == "finished":
        found = ending.evaluation
        if found is None:
            return Outcome(member.progress, None, None)
        assert isinstance(found.examples, ExampleLosses)
        return Outcome(member.progress, found.test_nll, found.examples)
    raise (DivergedError if ending.status == "diverged" else RecordsError)(f"{folder}: {ending.error}")
