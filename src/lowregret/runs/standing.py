"""How far the groups of a study are, read from their records while others write them. Torch-free."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from lowregret.errors import RecordsError
from lowregret.runs.boundary import open_regular
from lowregret.runs.files import GROUPS, METRICS, TRIAL, TRIALS, group_log
from lowregret.runs.holder import Holder, holder_of
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.study import trial_record
from lowregret.spec import GroupSpec

_TAIL_BYTES = 8192


@dataclass(frozen=True)
class GroupStanding:
    """A group of a study's trials at one moment."""

    key: str
    steps: int | None
    """Of each trial; None where the spec gives epochs."""
    expected: int
    """A guess at how many trials it has in all."""
    records: tuple[TrialRecord, ...] = ()
    last: Mapping[str, Metric] = field(default_factory=dict)
    """Id of a trial in training → the step that it has taken last."""
    holder: Holder | None = None
    """Who trains it, or did when its machine stopped."""
    label: str = ""
    """The key with the question's name: its own among the groups of several questions."""

    @property
    def running(self) -> tuple[TrialRecord, ...]:
        """Those in training; of a group that nobody holds, those that go on when it does."""
        return tuple(record for record in self.records if record.status == "running")

    @property
    def ended(self) -> tuple[TrialRecord, ...]:
        return tuple(record for record in self.records if record.status != "running")

    @property
    def counts(self) -> Mapping[str, int]:
        """Status → how many have ended so."""
        return Counter(record.status for record in self.ended)


class GroupReader:
    """Reads one group again and again; what has not changed is not read twice."""

    def __init__(self, folder: Path, spec: GroupSpec) -> None:
        self.folder, self.spec = folder, spec
        self._known: dict[str, tuple[int, TrialRecord]] = {}

    def look(self) -> GroupStanding:
        """The group now, without what cannot be read at this moment."""
        found: dict[str, tuple[int, TrialRecord]] = {}
        for file in sorted((self.folder / TRIALS).glob(f"*/{TRIAL}")):
            name = file.parent.name
            with suppress(OSError, RecordsError):
                changed = file.stat().st_mtime_ns
                known = self._known.get(name)
                found[name] = known if known and known[0] == changed else (changed, trial_record(file.parent))
        self._known = found
        records = tuple(record for _, record in found.values())
        running = [record for record in records if record.status == "running"]
        last = {record.id: metric for record in running if (metric := self._last(record.id)) is not None}
        return GroupStanding(self.spec.key, self.spec.steps, len(records), records, last, holder_of(self.folder))

    def _last(self, trial: str) -> Metric | None:
        for line in reversed(tail(self.folder / TRIALS / trial / METRICS)):
            with suppress(ValidationError):
                return Metric.model_validate_json(line)
        return None


def furthest(folder: Path) -> int:
    """How far a group has come, as a number that grows with every step and every trial that ends."""
    ended = sum(1 for _ in (folder / TRIALS).glob(f"*/{TRIAL}"))
    with_steps = (folder / TRIALS).glob(f"*/{METRICS}")
    return ended + sum(path.read_bytes().count(b"\n") for path in with_steps)


def tail(path: Path, count: int | None = None) -> list[str]:
    """The last lines of a text file, of at most 8 KiB; none where there is no file, or a pipe in its place."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except (OSError, RecordsError):
        return []
    return lines if count is None else lines[-count:]


def said_last(group: Path) -> list[str]:
    """The last five lines that the workers of a group, by its folder, have said."""
    study = group.parent.parent if group.parent.name == GROUPS else group.parent
    return tail(group_log(study, group.name), 5)
