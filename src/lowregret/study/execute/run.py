"""Trains the groups of studies on an engine: who is next, who is tried again, and when it is over.

What is known of a group lies in its folder; nothing else is kept. A worker that is lost costs what its group has
trained since its last checkpoint: the group is tried again, elsewhere if the engine has an elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from lowregret.activity import Activity, doing
from lowregret.errors import LowregretError, RecordsError
from lowregret.runs.holder import holder_of
from lowregret.runs.lock import is_locked
from lowregret.runs.standing import furthest, said_last
from lowregret.runs.study import read_trials
from lowregret.study.execute.job import Ended, Executor, Expected, GroupJob, Needs, Outcome, Task
from lowregret.study.execute.watch import Watch
from lowregret.study.observer import StudyObserver
from lowregret.study.tracking.tracker import Track
from lowregret.train.interrupt import Interrupted

TRIES = 3
"""Attempts in a row that may be lost at the same place; then its trials are recorded as failed."""
_WAIT_SECONDS = 0.5


def require_room(executor: Executor, jobs: Sequence[GroupJob]) -> None:
    """ClusterError where there will never be room for one of these groups."""
    for needs in dict.fromkeys(job.needs for job in jobs):
        executor.has_room(needs)


class GroupRun:
    """The groups of one start of `lowregret study`."""

    def __init__(
        self,
        executor: Executor,
        observer: StudyObserver,
        should_stop: Callable[[], bool],
        *,
        starts: Callable[[GroupJob], Mapping[str, float]],
        ended: Callable[[GroupJob], Sequence[GroupJob]],
        threads: int | None = None,
        track: Track | None = None,
        expected: Mapping[Path, Expected] | None = None,
        stores: Mapping[Path, str] | None = None,
        take_from: Sequence[Path] = (),
    ) -> None:
        """
        Args:
            starts: asked when a group is begun: the learning rates that it starts from.
            ended: told of each group that is trained; what it returns is to be trained as well.
            threads: of torch in each worker; torch's own choice when None.
            expected: a study's folder → what workers elsewhere must find; None on this machine.
            stores: a study's folder → the address where it is kept as well.
            take_from: folders of other runs whose trials are taken over.
        """
        self._executor, self._observer, self._should_stop = executor, observer, should_stop
        self._starts, self._ended = starts, ended
        self._threads, self._track, self._expected = threads, track, expected or {}
        self._stores, self._take_from = stores or {}, tuple(take_from)
        self._watch = Watch(observer)
        self._waiting: dict[Path, GroupJob] = {}
        """By the group's folder, in order."""
        self._again: dict[Path, GroupJob] = {}
        """Those that were begun before, which go before the others."""
        self._kinds: set[Needs] = set()
        """What the groups of this start need."""
        self._running: dict[Path, GroupJob] = {}
        self._given_up: dict[Path, dict[str, str]] = {}
        """By the group's folder: a trial's id → why."""
        self._lost: dict[Path, tuple[int, int]] = {}
        """How far it had come when its worker was lost, and how often there."""
        self._held: set[Path] = set()
        """Groups that somebody else trains, as the user has been told."""
        self._problem: LowregretError | None = None

    def run(self, jobs: Sequence[GroupJob]) -> None:
        """Train all, the first of the list first, each once the one that it starts from is done.

        Raises what a group raised, after the others; Interrupted after a clean stop; ClusterError before anything is
        begun where there will never be room for one.
        """
        require_room(self._executor, jobs)
        self._wait(jobs)
        try:
            if self._executor.watches:
                with doing("training groups; trials that have ended") as training:
                    self._loop(training)
            else:
                self._loop()
        except LowregretError:
            self._executor.cancel()
            raise
        if self._problem is not None:
            raise self._problem

    def _loop(self, training: Activity | None = None) -> None:
        while self._running or ((self._waiting or self._again) and self._problem is None):
            while self._problem is None and (job := self._next()) is not None:
                self._begin(job)
            if not self._running:
                time.sleep(_WAIT_SECONDS)
            for event in self._executor.events(_WAIT_SECONDS):
                self._take(event)
            if self._executor.watches:
                self._watch.look()
            if training is not None:
                training.done = self._watch.ended
            if self._should_stop():
                self._executor.cancel()
                raise Interrupted

    def _wait(self, jobs: Sequence[GroupJob]) -> None:
        self._waiting.update((job.folder, job) for job in jobs)
        self._kinds.update(job.needs for job in jobs)

    def _next(self) -> GroupJob | None:
        """The first of those waiting that may begin, and that has room."""
        refused: set[Needs] = set()
        for job in chain(self._again.values(), self._waiting.values()):
            if job.needs in refused or self._is_open(job.after):
                continue
            if not self._executor.has_room(job.needs):
                refused.add(job.needs)
                if len(refused) == len(self._kinds):
                    return None
                continue
            if self._executor.watches and is_locked(job.folder):
                self._wait_for(job)
                continue
            return job
        return None

    def _is_open(self, group: Path | None) -> bool:
        """Whether a group is still to be trained, or being trained."""
        return group in self._running or group in self._again or group in self._waiting

    def _wait_for(self, job: GroupJob) -> None:
        """A group that a worker of an earlier start still trains, or one on another machine."""
        if job.folder not in self._held:
            self._held.add(job.folder)
            holder = holder_of(job.folder)
            who = "another process" if holder is None else f"process {holder.pid} on {holder.host}"
            self._observer.say(f"{job.label}: {who} is training it; waiting for that")

    def _begin(self, job: GroupJob) -> None:
        self._again.pop(job.folder, None)
        self._waiting.pop(job.folder, None)
        self._running[job.folder] = job
        if self._executor.watches:
            self._watch.begin(job)
        task = Task(
            job,
            dict(self._starts(job)),
            self._given_up.get(job.folder, {}),
            self._threads,
            self._track,
            self._expected.get(job.study),
            self._stores.get(job.study),
            self._take_from,
        )
        self._executor.submit(task)

    def _take(self, event: Ended) -> None:
        job, outcome = event.task.job, event.outcome
        del self._running[job.folder]
        if self._executor.watches:
            self._watch.end(job)
        if outcome.kind == "done":
            try:
                self._wait(self._ended(job))
            except LowregretError as error:
                self._fail(job, error)
        elif outcome.kind == "failed":
            self._fail(job, outcome.error or RecordsError(f"{job.folder}: failed."))
        else:
            if outcome.kind == "lost":
                self._retry(job, outcome)
            self._again[job.folder] = job

    def _retry(self, job: GroupJob, outcome: Outcome) -> None:
        """Decide what is tried again of a group whose worker was lost."""
        why = outcome.why
        there, (before, count) = furthest(job.folder), self._lost.get(job.folder, (-1, 0))
        count = count + 1 if there <= before else 1
        self._lost[job.folder] = max(there, before), count
        last = "".join(f"\n    {line}" for line in said_last(job.folder))
        said = f"{job.label}: its worker was lost: {why}.{' The last that it said:' if last else ''}{last}"
        if count < TRIES:
            self._observer.say(f"{said}\n  It goes on from its last checkpoint.")
            return
        if outcome.error is not None:
            self._fail(job, outcome.error)
            return
        stuck = [record.id for record in read_trials(job.folder) if record.status == "running"]
        if not stuck:
            self._fail(job, RecordsError(
                f"{job.folder}: {count} workers were lost before a trial began, the last because {why}. Run the same "
                f"command again, with fewer --workers if memory is short.{last}"
            ))  # fmt: skip
            return
        del self._lost[job.folder]
        reason = f"{count} workers were lost at it, the last because {why}"
        self._given_up[job.folder] = self._given_up.get(job.folder, {}) | dict.fromkeys(stuck, reason)
        self._observer.say(f"{said}\n  {count} times at the same place: recorded as failed: {', '.join(stuck)}")

    def _fail(self, job: GroupJob, error: LowregretError) -> None:
        """An error that would come again: nothing else is begun, what runs goes on, for it may have taken hours."""
        self._problem = self._problem or error
        if self._running:
            others = ", ".join(other.label for other in self._running.values())
            self._observer.say(f"{job.label}: {error}\nNothing else is begun; this goes on to its end: {others}")
