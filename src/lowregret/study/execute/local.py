"""Groups in this process, one after another, or in several processes of this machine.

Each of several has a pool of one process of its own (`concurrent.futures`): one that dies breaks its pool alone, and
the next group gets another.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from lowregret.study.execute.job import Ended, Needs, Outcome, Task
from lowregret.study.execute.process import begin
from lowregret.study.execute.work import Watched, train, watching, work
from lowregret.study.observer import StudyObserver
from lowregret.study.tracking.tracker import Track
from lowregret.train.interrupt import Interrupted

_START_SECONDS = 5.0
_STOP_SECONDS = 60.0
"""How long a worker is given to write a checkpoint."""


class InProcess:
    """One group after another, in this process, whose observer sees every step; an error of a group is raised."""

    name = "this process"
    watches = False

    def __init__(self, observer: StudyObserver, should_stop: Callable[[], bool], track: Track | None) -> None:
        self._observer, self._should_stop = observer, should_stop
        self._waiting: deque[Task] = deque()
        self._stack = ExitStack()
        self._watched: Watched = self._stack.enter_context(watching(track, observer.say))

    def has_room(self, needs: Needs) -> bool:
        return not self._waiting

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def events(self, seconds: float) -> Sequence[Ended]:
        if not self._waiting:
            return []
        task = self._waiting.popleft()
        job = task.job
        self._observer.group_started(job.label)
        self._observer.say(f"{job.label}: {', '.join(method.name for method in job.spec.methods)}")
        try:
            train(task, self._watched(task, self._observer), self._should_stop)
        except Interrupted:
            return [Ended(task, Outcome("stopped"))]
        return [Ended(task, Outcome("done"))]

    def cancel(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self._stack.close()


@dataclass
class _Slot:
    """A process, or the place of one that will be."""

    pool: ProcessPoolExecutor
    pid: Future[int]


class Pool:
    """Several groups side by side."""

    watches = True

    def __init__(self, workers: int) -> None:
        self.name = f"{workers} processes"
        self._workers = workers
        self._idle: list[_Slot] = []
        self._running: dict[Future[Outcome], tuple[Task, _Slot]] = {}

    def has_room(self, needs: Needs) -> bool:
        return len(self._running) < self._workers

    def submit(self, task: Task) -> None:
        slot = self._idle.pop() if self._idle else self._start()
        try:
            future = slot.pool.submit(work, task)
        except BrokenProcessPool:  # it died while it was idle
            slot = self._start()
            future = slot.pool.submit(work, task)
        self._running[future] = task, slot

    def events(self, seconds: float) -> Sequence[Ended]:
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        return [self._taken(future) for future in done]

    def cancel(self) -> None:
        end = time.monotonic() + _STOP_SECONDS
        for _, slot in self._running.values():
            with suppress(TimeoutError, BrokenProcessPool):
                slot.pid.result(timeout=_START_SECONDS)  # one that is only starting can be told nothing yet
            self._signal(slot, signal.SIGTERM)
        wait(self._running, timeout=max(0.0, end - time.monotonic()))

    def close(self) -> None:
        for slot in [*self._idle, *(slot for future, (_, slot) in self._running.items())]:
            self._signal(slot, getattr(signal, "SIGKILL", signal.SIGTERM))
            slot.pool.shutdown(wait=True, cancel_futures=True)
        self._idle.clear()
        self._running.clear()

    def pids(self) -> dict[int, Path]:
        """The processes that train, with the folder of each one's group."""
        return {slot.pid.result(): task.job.folder for task, slot in self._running.values() if slot.pid.done()}

    @staticmethod
    def _start() -> _Slot:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=begin)
        return _Slot(pool, pool.submit(os.getpid))

    def _taken(self, future: Future[Outcome]) -> Ended:
        task, slot = self._running.pop(future)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            slot.pool.shutdown(wait=False)
            return Ended(task, Outcome("lost", why="its process ended without a word (killed, or out of memory?)"))
        if outcome.kind == "lost":  # what went wrong may be in the process itself
            slot.pool.shutdown(wait=False)
        else:
            self._idle.append(slot)
        return Ended(task, outcome)

    @staticmethod
    def _signal(slot: _Slot, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, BrokenProcessPool):
            if slot.pid.done():
                os.kill(slot.pid.result(), number)
