"""Several processes that train groups of trials side by side: a small base leaves most of a machine idle.

The parent sends a worker a group, the worker sends back lines to show and how it ended. A worker whose parent is gone
stops after a checkpoint, so that a killed study can be started again at once.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lowregret.errors import LowregretError, RecordsError
from lowregret.records import Metric, TrialRecord
from lowregret.spec import GroupSpec, TrialSpec
from lowregret.study.crew import Observer
from lowregret.study.tracking import Track, Tracker

_LOCK_SECONDS = 20.0
"""How long a group waits for the worker of a killed session to let go of its folder."""


@dataclass(frozen=True)
class Job:
    """A group to be trained."""

    folder: Path
    spec: GroupSpec
    label: str
    """For the lines that it says."""
    after: Path | None
    """The folder of the group whose best rates this one starts from."""


Watched = Callable[[Job, Observer], Observer]
"""What watches a group, around who watches it anyway."""


class Lines:
    """An observer that says one line a trial."""

    def __init__(self, label: str, say: Callable[[str], None]) -> None:
        self._label, self._say = label, say
        self._expected = 0
        self._done = 0

    def say(self, line: str) -> None:
        """What is found in the data is the same in every group, and not worth a line each."""

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        self._done, self._expected = done, expected

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None:
        self._done += 1
        found = record.test_nll if record.test_reward is None else record.test_reward
        loss = "" if found is None else f" {found:.4f}"
        self._say(
            f"{self._label} {self._done}/{max(self._expected, self._done)}: {record.method} at "
            f"{record.learning_rate:.3g}, seed {record.seed}: {record.status}{loss}, {record.seconds:.1f} s"
        )


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    threads: int | None,
    starts: Callable[[Job], Mapping[str, float]],
    observer: Observer,
    should_stop: Callable[[], bool],
    ended: Callable[[Job], None],
    track: Track | None = None,
) -> None:
    """Train all groups, each once the one that it starts from is done; raises what a group raised, after the others.

    Args:
        threads: of torch in each worker; torch's own choice when None.
        starts: asked when a group is begun: the learning rates that it starts from.
        ended: told of each group that is trained.
    """
    if workers == 1:
        from lowregret.study.group import run_group

        with _watching(track, observer.say) as watched:
            for job in jobs:
                observer.say(f"{job.label}: {', '.join(method.name for method in job.spec.methods)}")
                run_group(job.folder, job.spec, starts(job), watched(job, observer), should_stop)
                ended(job)
        return
    context = multiprocessing.get_context("spawn")
    pool: list[tuple[Any, Connection]] = []
    for _ in range(min(workers, len(jobs))):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, threads, track), daemon=True)
        process.start()
        theirs.close()
        pool.append((process, ours))
    try:
        _Parent(jobs, [ours for _, ours in pool], starts, observer, should_stop, ended).run()
    finally:
        for _, ours in pool:
            ours.close()  # tells a worker that is in the middle of something to stop
        for process, _ in pool:
            process.join(timeout=60)


class _Parent:
    """Hands out groups and listens."""

    def __init__(
        self,
        jobs: Sequence[Job],
        workers: Sequence[Connection],
        starts: Callable[[Job], Mapping[str, float]],
        observer: Observer,
        should_stop: Callable[[], bool],
        ended: Callable[[Job], None],
    ) -> None:
        self._waiting, self._idle = list(jobs), list(workers)
        self._busy: dict[Connection, Job] = {}
        self._starts, self._observer, self._should_stop, self._ended = starts, observer, should_stop, ended
        self._problem: BaseException | None = None

    def run(self) -> None:
        while self._busy or (self._waiting and self._problem is None):
            while self._idle and self._problem is None and (job := self._next()) is not None:
                worker = self._idle.pop(0)
                self._busy[worker] = job
                worker.send((job, dict(self._starts(job))))
            for found in wait(list(self._busy), timeout=0.5):
                assert isinstance(found, Connection)
                self._listen(found)
            if self._should_stop():
                from lowregret.train.pack import Interrupted

                raise Interrupted
        if self._problem is not None:
            raise self._problem

    def _next(self) -> Job | None:
        open_folders = {job.folder for job in (*self._waiting, *self._busy.values())}
        ready = next((job for job in self._waiting if job.after not in open_folders), None)
        if ready is not None:
            self._waiting.remove(ready)
        return ready

    def _listen(self, worker: Connection) -> None:
        try:
            kind, content = worker.recv()
        except (EOFError, ConnectionResetError):
            job = self._busy.pop(worker)
            self._problem = RecordsError(
                f"{job.folder}: its process ended without a word (out of memory?). Run the same command again, "
                "with --workers 1 if it happens again."
            )
            return
        if kind == "line":
            self._observer.say(content)
            return
        job = self._busy.pop(worker)
        self._idle.append(worker)
        if kind == "done":
            try:
                self._ended(job)
            except LowregretError as error:
                kind, content = "error", error
        if kind == "error":
            self._problem = self._problem or content
            if self._busy and not isinstance(content, InterruptedError):  # those may take hours
                others = ", ".join(other.label for other in self._busy.values())
                self._observer.say(f"{job.label}: {content}\nNothing else is begun; this goes on to its end: {others}")


def _serve(parent: Connection, threads: int | None, track: Track | None) -> None:
    """A worker's life."""
    import torch

    from lowregret.train.interrupt import stop_requests

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with (
            stop_requests(lambda line: None) as asked,
            _watching(track, lambda line: parent.send(("line", line))) as watched,
        ):
            while True:
                job, starts = parent.recv()
                parent.send(_outcome(job, starts, parent, asked, watched))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


@contextmanager
def _watching(track: Track | None, say: Callable[[str], None]) -> Iterator[Watched]:
    """Wraps the observers of a process's groups, one after the other, so that a tracker is told as well."""
    if track is None:
        yield lambda job, inner: inner
        return
    with Tracker(track, say) as tracker:
        yield lambda job, inner: tracker.watching(job.folder, inner, job.folder.parents[1].name, job.spec.key)


def _outcome(
    job: Job, starts: Mapping[str, float], parent: Connection, asked: Callable[[], bool], watched: Watched
) -> tuple[str, Any]:
    from lowregret.study.group import run_group

    lines = watched(job, Lines(job.label, lambda line: parent.send(("line", line))))
    try:
        for last in _attempts():
            try:
                run_group(job.folder, job.spec, starts, lines, lambda: asked() or parent.poll())
            except RecordsError as error:
                if last or "another lowregret process" not in str(error):
                    raise
                time.sleep(0.5)
            else:
                break
    except LowregretError as error:
        return "error", type(error)(str(error))
    except InterruptedError as error:
        return "error", error
    return "done", None


def _attempts() -> Iterator[bool]:
    """False for as long as a lock is waited for, then True."""
    end = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < end:
        yield False
    yield True
