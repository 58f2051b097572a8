"""The resumable state of trials in training: one file, replaced atomically, with everything that the loop needs.

All members of a pack are in it at the same round, so what a pass is made of repeats after a resume, and with it every
bit of the result. Whatever else the folder says meanwhile is younger than the checkpoint and happens again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lowregret.engine import Engine
from lowregret.engine.checks import restore, save_together
from lowregret.engine.state import damaged, read_sealed
from lowregret.errors import RecordsError
from lowregret.runs.atomic import remove_file
from lowregret.runs.files import CHECKPOINT
from lowregret.runs.manifest import read_manifest
from lowregret.runs.record import Record
from lowregret.runs.records import TrialRecord
from lowregret.spec import TrialSpec

_CONTENTS, _IDENTITY = "pack", "run"


class Progress(Record):
    """Where a trial stands."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    pack_size: int = 1
    """The most trials in training at once with it, itself included."""
    shared_seconds: float = 0.0
    """Its share of the time of its training steps in passes with others."""
    shared_seconds_alone: float = 0.0
    """An estimate of what those steps would have taken alone."""
    evaluation_seconds: float = 0.0
    """Its share of the time of its last held-out evaluation."""
    alone_seconds_per_token: float | None = None
    """What that estimate goes by: the time of its second step, which has passes of its own."""


class Standing(Record):
    """A trial in training."""

    name: str
    """Its policy on the engine."""
    trial: TrialSpec
    progress: Progress


class _Contents(Record):
    members: tuple[Standing, ...]
    records: tuple[TrialRecord, ...]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved."""

    path: Path
    members: tuple[Standing, ...]
    """The trials in training, in the order in which they joined."""
    records: tuple[TrialRecord, ...]
    """The trials of the study that had ended by then."""

    def standing(self, trial: TrialSpec) -> Standing:
        """Where a trial that was in training stood; RecordsError when it was none of them."""
        found = next((member for member in self.members if member.trial == trial), None)
        if found is None:
            raise damaged(self.path, f"it does not hold the trial {trial.id}")
        return found

    def restore(self, engine: Engine, name: str) -> None:
        """Copy the saved state into the policy of this name; RecordsError when it does not fit."""
        restore(engine, name, self.path, f"{name}/")


def save_checkpoint(
    engine: Engine,
    folder: Path,
    members: Sequence[Standing],
    records: Iterable[TrialRecord] = (),
    identity: str = "",
) -> None:
    """Weights, moments and progress of the members, what had ended, and the run's identity, atomically."""
    states = {f"{member.name}/": member.name for member in members}
    contents = _Contents(members=tuple(members), records=tuple(records))
    save_together(engine, states, folder / CHECKPOINT, {_CONTENTS: contents.model_dump_json(), _IDENTITY: identity})


def read_checkpoint(folder: Path, identity: str = "") -> Checkpoint | None:
    """What `save_checkpoint` wrote; None when there is no checkpoint, RecordsError when it is damaged or of another run
    than that of this identity.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    manifest = read_manifest(folder)
    metadata = read_sealed(path, unsealed=manifest is not None and manifest.adopted)
    try:
        contents = _Contents.model_validate_json(metadata[_CONTENTS])
    except KeyError:
        raise damaged(path, "it does not say whose it is") from None
    except ValidationError as error:
        raise damaged(path, error.errors()[0]["msg"]) from None
    if metadata.get(_IDENTITY, identity) != identity:
        raise RecordsError(
            f"{path}: is the checkpoint of another run: of another base, other data, or another spec. Put back the one "
            "that belongs here, or delete it and run the same command again: the trials in training restart."
        )
    return Checkpoint(path, contents.members, contents.records)


def has_paused(trial: Path) -> bool:
    """Whether a trial's folder has a checkpoint of its own, from which it goes on."""
    return (trial / CHECKPOINT).exists()


def delete_checkpoint(folder: Path) -> None:
    """Trials that have ended need no checkpoint."""
    remove_file(folder / CHECKPOINT)
