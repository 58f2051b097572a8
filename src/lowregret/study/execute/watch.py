"""What the parent knows of groups that others train: what their records say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lowregret.runs.standing import GroupReader, GroupStanding
from lowregret.study.execute.job import GroupJob
from lowregret.study.lattice import group_estimate
from lowregret.study.observer import StudyObserver, ended_line

_LOOK_SECONDS = 1.0


class Watch:
    """Tells an observer, once a second, how far the groups in training are, and a line of each trial that has ended."""

    def __init__(self, observer: StudyObserver, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer, self._clock = observer, clock
        self._open: dict[Path, tuple[GroupJob, GroupReader]] = {}
        self._told: dict[Path, set[str]] = {}
        """By the group's folder: the ids of trials that have ended."""
        self._looked = -_LOOK_SECONDS

    @property
    def ended(self) -> int:
        """Trials that have ended, in all groups that were looked at."""
        return sum(map(len, self._told.values()))

    def begin(self, job: GroupJob) -> None:
        """A group is being trained from now on; what had ended before is not told again."""
        reader = GroupReader(job.folder, job.spec)
        self._open[job.folder] = job, reader
        if job.folder not in self._told:
            self._told[job.folder] = {record.id for record in reader.look().ended}

    def end(self, job: GroupJob) -> None:
        """A group is not being trained any more."""
        _, reader = self._open.pop(job.folder)
        self._tell(job, _estimated(job, reader))

    def look(self) -> None:
        """Read what has changed, if it is time to."""
        if self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = self._clock()
        found = []
        for job, reader in self._open.values():
            found.append(_estimated(job, reader))
            self._tell(job, found[-1])
        self._observer.groups(found)

    def _tell(self, job: GroupJob, standing: GroupStanding) -> None:
        told = self._told[job.folder]
        for record in standing.ended:
            if record.id not in told:
                told.add(record.id)
                self._observer.say(ended_line(job.label, len(told), standing.expected, record))


def _estimated(job: GroupJob, reader: GroupReader) -> GroupStanding:
    standing = reader.look()
    return replace(standing, expected=group_estimate(job.spec, standing.records), label=job.label)
