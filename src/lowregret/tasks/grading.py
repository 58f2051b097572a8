"""Grading that survives reward functions: they run in a confined process of their own, with a time limit a sample."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from lowregret.errors import SpecError
from lowregret.folders import home
from lowregret.tasks.base import Problem
from lowregret.tasks.confine import MEANS, NEEDED, clean_environment
from lowregret.tasks.protocol import LARGEST_REWARD, Order
from lowregret.tasks.registry import find_entry
from lowregret.tasks.walls import WALLS

START_SECONDS = 120.0
"""For imports; the time limit of a sample starts after them."""
_LONGEST_LINE = 1 << 16
"""Bytes of an answer."""
AT_ONCE = 16
"""Samples that the process is given at once: their rows, of a million characters each at most, are in its memory."""
_DIED = "ended the process that grades"


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

    def __init__(
        self,
        task: str,
        *,
        time_limit: float = 5.0,
        failure_reward: float = 0.0,
        trusted: bool = False,
        walls: Sequence[str] = tuple(WALLS),
    ) -> None:
        """The process starts with the first sample, or by `start`.

        Args:
            time_limit: seconds a sample.
            trusted: a function of the user's is not confined; a task whose scorer evaluates text is graded even where
                it cannot be confined.
            walls: those to raise, by their names.
        """
        self._task, self._limit, self._failure_reward = task, time_limit, failure_reward
        self._entry, self._trusted = find_entry(task), trusted
        self._free = trusted and self._entry.own_code
        self._walls = None if self._free else tuple(walls)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._unread = b""
        self._number = 0
        self.holds: Mapping[str, bool] = {}
        """Of `confine.MEANS`, what was found to hold when the process started; nothing for what is not confined."""

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> socket.socket:
        """Have a process that has loaded the task.

        SpecError when it cannot be loaded, or evaluates text and cannot be confined here.
        """
        if self._channel is not None:
            return self._channel
        ours, other = socket.socketpair()
        path = tuple(filter(None, sys.path))
        kept = dict(os.environ) if self._free else clean_environment(os.environ)
        with other:
            # A session of its own: Ctrl-C is for the program that trains, which then ends this process.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lowregret.tasks.worker", str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**kept, "PYTHONPATH": os.pathsep.join(path)},
            )
        self._channel = ours
        evaluates = self._entry.evaluates(self._task)
        folders = dict.fromkeys((os.getcwd(), tempfile.gettempdir(), str(home()), "/dev/shm"))
        # "" is the current folder: a console script does not look there, but users expect it. Last, so that none of
        # its files is taken for a module that others import.
        order = Order(self._task, (*path, ""), os.getpid(), self._walls, tuple(folders), evaluates, self._limit)
        try:
            self._send(order, START_SECONDS)
            _, kind, value = self._answer(START_SECONDS)
        except TimeoutError:
            kind, value = "error", "it does not start."
        except OSError:
            kind, value = "error", "the process that grades died at its start: see its message above."
        if kind != "ready":
            self.close()
            raise SpecError(f"task {self._task!r}: {value}" if self._task not in str(value) else str(value))
        self.holds = {name: bool(value.get(name)) for name in MEANS} if isinstance(value, dict) and value else {}
        lacking = [MEANS[name] for name in NEEDED if not self.holds.get(name)]
        if evaluates and lacking and not self._trusted:
            self.close()
            raise SpecError(
                f"task {self._task!r}: grading runs what a model writes as Python, which cannot be confined here: "
                f"{', '.join(lacking)} could not be made sure. Run it on Linux 5.13 or newer, or accept it by "
                "--trust-task, best in a container or a virtual machine that holds nothing else."
            )
        return ours

    def line(self) -> str:
        """What to say of the process that grades: what confines it, and what does not hold here."""
        if self._free:
            return "grading is not confined: --trust-task"
        held = [text for name, text in MEANS.items() if self.holds.get(name)]
        lacking = [text for name, text in MEANS.items() if not self.holds.get(name)]
        said = f"grading is confined: {', '.join(held)}" if held else "grading is not confined"
        return f"{said}; does not hold here: {', '.join(lacking)}" if lacking else said

    def __call__(self, samples: Sequence[tuple[str, Problem]]) -> list[Grade]:
        """The grade of each (completion, problem), in order. A sample that fails does not concern the others."""
        found: list[Grade] = []
        while len(found) < len(samples):
            self.start()
            part = samples[len(found) : len(found) + AT_ONCE]
            first, until = self._number + 1 - len(found), len(found) + len(part)
            try:
                self._send([(number, *sample) for number, sample in enumerate(part, self._number + 1)], self._limit)
                while len(found) < until:
                    self._number = first + len(found)
                    number, kind, value = self._answer(self._limit)
                    if number != self._number:
                        raise ConnectionError
                    found.append(self._grade(kind, value))
                    if kind == "spent":
                        self.close()
                        break
            except TimeoutError:
                found.append(self._failed(f"took longer than {self._limit:g} s"))
                self.close()
            except OSError:
                found.append(self._failed(_DIED))
                self.close()
        return found

    def close(self) -> None:
        """End the process; the next sample starts another."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None
        self._unread = b""

    def _send(self, what: Any, seconds: float) -> None:
        """Within so many seconds, or TimeoutError; OSError when nobody listens."""
        assert self._channel is not None
        self._channel.settimeout(seconds)
        self._channel.sendall(pickle.dumps(what))

    def _answer(self, seconds: float) -> tuple[int, str, Any]:
        """The next line of the process; TimeoutError when it takes longer, ConnectionError when it is none."""
        assert self._channel is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            self._channel.settimeout(max(end - time.monotonic(), 1e-6))
            more = self._channel.recv(_LONGEST_LINE)
            if not more or len(self._unread) > _LONGEST_LINE:
                raise ConnectionError
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            number, kind, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            raise ConnectionError from None
        return number, kind, value

    def _grade(self, kind: Any, value: Any) -> Grade:
        """What a line says, if it is one of a worker's."""
        if kind == "reward" and type(value) is float and abs(value) <= LARGEST_REWARD:
            return Grade(value)
        if kind not in ("failed", "spent") or not isinstance(value, str):
            return self._failed(_DIED)
        return self._failed(value.encode(errors="backslashreplace").decode())

    def _failed(self, reason: str) -> Grade:
        return Grade(self._failure_reward, reason)
