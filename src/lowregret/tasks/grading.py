"""Grading that survives reward functions: they run in a process of their own, with a time limit for each sample."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from lowregret.errors import SpecError
from lowregret.tasks.base import Problem

START_SECONDS = 120.0
"""For imports; the time limit of a sample starts after them."""


@dataclass(frozen=True)
class Grade:
    """What a completion is worth."""

    reward: float
    failure: str | None = None
    """Why the reward function gave none; then the reward is the one stated for failures."""


def total_failure(grades: Sequence[Grade]) -> str | None:
    """Why none of these completions could be graded: the first line of the first reason; None when one could."""
    reasons = [grade.failure for grade in grades]
    if not reasons or not all(reasons):
        return None
    return (str(reasons[0]).splitlines() or [""])[0]


class Grader:
    """Grades samples of one task, one after the other, in a process that is replaced when it hangs or dies."""

    def __init__(self, task: str, *, time_limit: float = 5.0, failure_reward: float = 0.0) -> None:
        """`time_limit` in seconds a sample. The process starts with the first sample, or by `start`."""
        self._task, self._limit, self._failure_reward = task, time_limit, failure_reward
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Connection[Any, Any]:
        """Have a process that has loaded the task; SpecError when it cannot be loaded."""
        if self._connection is not None:
            return self._connection
        ours, other = multiprocessing.Pipe()
        with other:
            # A session of its own: Ctrl-C is for the program that trains, which then ends this process.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lowregret.tasks.worker", str(other.fileno()), str(os.getpid())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = ours
        try:
            # "" is the current folder: a console script does not look there, but users expect it. Last, so that none of
            # its files is taken for a module that others import.
            ours.send((self._task, [*filter(None, sys.path), ""]))
            kind, reason = ours.recv() if ours.poll(START_SECONDS) else ("error", "it does not start.")
        except (EOFError, OSError):
            kind, reason = "error", "the process that grades died at its start: see its message above."
        if kind != "ready":
            self.close()
            raise SpecError(f"task {self._task!r}: {reason}" if self._task not in str(reason) else str(reason))
        return ours

    def __call__(self, samples: Sequence[tuple[str, Problem]]) -> list[Grade]:
        """The grade of each (completion, problem), in order. A sample that fails does not concern the others."""
        found: list[Grade] = []
        while len(found) < len(samples):
            connection = self.start()
            try:
                connection.send(list(samples[len(found) :]))
                while len(found) < len(samples):
                    if not connection.poll(self._limit):
                        found.append(self._failed(f"took longer than {self._limit:g} s"))
                        self.close()
                        break
                    kind, value = connection.recv()
                    found.append(Grade(value) if kind == "reward" else self._failed(value))
            except (EOFError, OSError):
                found.append(self._failed("ended the process that grades"))
                self.close()
        return found

    def close(self) -> None:
        """End the process; the next sample starts another."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None

    def _failed(self, reason: str) -> Grade:
        return Grade(self._failure_reward, reason)
