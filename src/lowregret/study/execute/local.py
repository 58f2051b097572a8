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

import torch

from lowregret.errors import FolderLockedError, LowregretError, RecordsError
from lowregret.spec import GroupSpec
from lowregret.study.group import run_group
from lowregret.study.observer import Lines, Observer
from lowregret.study.tracking.tracker import Track, Tracker
from lowregret.train.interrupt import Interrupted, stop_requests

_LOCK_SECONDS = 20.0
"""How long a group waits for the worker of a killed session to let go of its folder."""


@dataclass(frozen=True)
class GroupJob:
    """A group to be trained."""

    folder: Path
    spec: GroupSpec
    label: str
    """For the lines that it says."""
    after: Path | None
    """The folder of the group whose best rates this one starts from."""


Watched = Callable[[GroupJob, Observer], Observer]
"""What watches a group, around who watches it anyway."""


def run_jobs(
    jobs: Sequence[GroupJob],
    workers: int,
    threads: int | None,
    starts: Callable[[GroupJob], Mapping[str, float]],
    observer: Observer,
    should_stop: Callable[[], bool],
    ended: Callable[[GroupJob], None],
    track: Track | None = None,
) -> None:
    """Train all groups, each once the one that it starts from is done; raises what a group raised, after the others.

    Args:
        threads: of torch in each worker; torch's own choice when None.
        starts: asked when a group is begun: the learning rates that it starts from.
        ended: told of each group that is trained.
    """
    if workers == 1:
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
        jobs: Sequence[GroupJob],
        workers: Sequence[Connection],
        starts: Callable[[GroupJob], Mapping[str, float]],
        observer: Observer,
        should_stop: Callable[[], bool],
        ended: Callable[[GroupJob], None],
    ) -> None:
        self._waiting, self._idle = list(jobs), list(workers)
        self._busy: dict[Connection, GroupJob] = {}
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
                raise Interrupted
        if self._problem is not None:
            raise self._problem

    def _next(self) -> GroupJob | None:
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
    job: GroupJob, starts: Mapping[str, float], parent: Connection, asked: Callable[[], bool], watched: Watched
) -> tuple[str, Any]:
    lines = watched(job, Lines(job.label, lambda line: parent.send(("line", line))))
    try:
        for last in _attempts():
            try:
                run_group(job.folder, job.spec, starts, lines, lambda: asked() or parent.poll())
            except FolderLockedError:
                if last:
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
