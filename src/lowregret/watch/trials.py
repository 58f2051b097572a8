"""The trials of one compare, training or group, followed while they are written: what has not changed is not read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from lowregret.errors import RecordsError
from lowregret.foreign_text import printable, shown, without_paths
from lowregret.runs.atomic import read_record
from lowregret.runs.boundary import within
from lowregret.runs.files import METRICS, TRIAL, TRIALS
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import trial_record
from lowregret.runs.tail import Tail
from lowregret.watch.curve import Curve, Point, rounded, steps

SWEEP_SECONDS = 3.0
"""Between two looks at everything; in between, only at trials in training."""
SINGLE = "trial"
"""What the one trial of a training is called."""
MOST_TRIALS = 20_000
"""Of a folder; others are not shown."""
_PART_SECONDS = 0.3
"""Of one look: what is left of a large folder comes with the next ones."""
_LONGEST = 500
_SHORTEST_SECONDS = 1e-3
"""Over which a pace is told."""


@dataclass
class Followed:
    """One trial."""

    id: str
    home: Path
    tail: Tail
    record: TrialRecord | None = None
    curve: Curve = field(default_factory=Curve)
    problem: str = ""
    """What is wrong with its record; what was known of it stays."""
    stamp: tuple[int, int, int] | None = None
    """Of trial.json."""
    train: list[Point] = field(default_factory=list)
    held: list[Point] = field(default_factory=list)
    """Points that nobody was told of."""
    again: bool = False
    """Its curve was read anew from its start."""
    changed: bool = True
    text: str = ""
    """As JSON, for a page that opens; "" when it has changed since."""
    complete: bool = False
    """It has ended, and its curve is read to the end."""

    @property
    def running(self) -> bool:
        return self.record is not None and self.record.status == "running"

    @property
    def loss(self) -> float | None:
        """That rates are compared by: at the end, or where it is."""
        if self.record is not None and self.record.status != "running":
            return self.record.shared_loss
        held, last = self.curve.held_last, self.curve.last
        return held if held is None or last is None or not last.rewarded else -held

    @property
    def seconds(self) -> float:
        if self.record is not None and self.record.status != "running":
            return self.record.seconds
        return 0.0 if self.curve.last is None else self.curve.last.seconds

    def row(self) -> dict[str, Any]:
        """Plain values for a table; what is not known is left out."""
        record, last = self.record, self.curve.last
        assert record is not None
        rewarded = record.test_reward is not None or (last is not None and last.rewarded)
        loss = self.loss
        found: dict[str, Any] = {
            "id": self.id,
            "method": printable(record.method)[:_LONGEST],
            "lr": record.learning_rate,
            "seed": record.seed,
            "status": record.status,
            "step": record.steps if last is None or record.status != "running" else last.step,
            "end": None if loss is None else rounded(-loss if rewarded else loss),
            "trained": None if last is None or last.trained is None else rounded(last.trained),
            "seconds": round(self.seconds, 1),
            "pace": self._pace(),
            "pack": record.pack_size if record.pack_size > 1 else None,
            "error": clean(record.error),
            "note": clean(record.note),
            "problem": clean(self.problem),
        }
        return {name: value for name, value in found.items() if value not in (None, "")}

    def _pace(self) -> int | None:
        """Tokens a second since its first step."""
        first, last = self.curve.first, self.curve.last
        if not self.running or first is None or last is None or last.seconds - first.seconds < _SHORTEST_SECONDS:
            return None
        return round((last.tokens - first.tokens) / (last.seconds - first.seconds))


def clean(text: str | None) -> str | None:
    """Foreign words for a page: no secrets, no paths, not too long."""
    return None if text is None else str(without_paths(shown(text)))[:_LONGEST]


@final
class Trials:
    """All trials of a folder, or the one that the folder is."""

    def __init__(self, folder: Path, *, single: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._single, self._clock = folder, single, clock
        self.known: dict[str, Followed] = {}
        """By id: those that have a record."""
        self.gone: list[str] = []
        """Ids of those that have gone since somebody took note."""
        self._swept = -1e9
        self._folder_stamp: int | None = None
        self._due: list[str] = []
        """New ones and those in training that a look has not come to yet."""
        self._left: list[str] = []
        """Ended ones that a sweep has not come to yet."""
        self.hidden = 0
        """Trials beyond those that are shown."""

    def look(self) -> bool:
        """Read what has changed; whether there is more to read at once."""
        began = self._clock()
        if not self._due:  # else where the last look has stopped, so that all have their turn
            running = [one.id for one in self.known.values() if one.running or one.again]
            self._due = [*dict.fromkeys([*running, *self._new()])][::-1]
        if not self._left and began - self._swept >= SWEEP_SECONDS:
            self._swept = began
            due = set(self._due)
            self._left = [name for name in reversed(self.known) if name not in due]
        more = False
        while self._due:
            more = self._see(self._due.pop()) or more
            if self._due and self._clock() - began > _PART_SECONDS:
                return True
        while self._left and self._clock() - began <= _PART_SECONDS:
            more = self._see(self._left.pop()) or more
        return more or bool(self._left)

    def _new(self) -> Iterable[str]:
        """Names of trials that are not known yet."""
        if self._single:
            return [] if self.known else [SINGLE]
        place = self._folder / TRIALS
        try:
            if place.is_symlink():
                return []
            found = place.stat().st_mtime_ns
            if found == self._folder_stamp and self._clock() - self._swept < SWEEP_SECONDS:
                return []
            self._folder_stamp = found
            names = [entry.name for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        self.hidden = max(0, len(names) - MOST_TRIALS)
        return sorted(name for name in names if name not in self.known)[: max(0, MOST_TRIALS - len(self.known))]

    def _see(self, name: str) -> bool:
        """One trial; whether there is more of its curve."""
        home = self._home(name)
        one = self.known.get(name)
        if home is None or not self._record(name, home):
            if one is not None:
                del self.known[name]
                self.gone.append(name)
            return False
        return self._curve(self.known[name])

    def _home(self, name: str) -> Path | None:
        if self._single:
            return self._folder
        with suppress(RecordsError):
            return within(self._folder / TRIALS, name)
        return None

    def _record(self, name: str, home: Path) -> bool:
        """Read trial.json if it has changed; whether it is there."""
        try:
            found = os.lstat(home / TRIAL)
        except OSError:
            return False
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        one = self.known.get(name)
        if one is not None and one.stamp == stamp:
            return True
        record: TrialRecord | None
        try:
            record, problem = read_record(TrialRecord, home / TRIAL) if self._single else trial_record(home), ""
        except (RecordsError, OSError) as error:
            record, problem = (None if one is None else one.record), str(error).partition(" Delete")[0]
        if one is None:
            if record is None:
                return False
            one = self.known[name] = Followed(name, home, Tail(home / METRICS))
        one.record, one.problem, one.stamp, one.changed = record, problem, stamp, True
        one.complete = False
        return True

    def _curve(self, one: Followed) -> bool:
        if one.complete:
            return False
        fresh = one.tail.read()
        one.complete = not one.running and not fresh.more
        if fresh.again:
            one.curve, one.train, one.held, one.again, one.changed = Curve(), [], [], True, True
        for found in steps(fresh.lines):
            if one.curve.last is not None and found.step <= one.curve.last.step:
                continue
            train, held = one.curve.add(found)
            one.train += train
            one.held += held
            one.changed = True
        return fresh.more
