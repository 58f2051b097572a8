"""The process in which completions are graded: `python -m lowregret.tasks.worker FD`, started by `Grader`.

It gets a pickled `protocol.Order` and then lists of (number, completion, Problem). It answers in lines of JSON, never
in pickles, since a completion that runs as Python can write what it likes: [0, "ready", {what is confined: whether it
holds}] or [0, "error", why]; then for each sample, in order, [number, "reward", value], [number, "failed", why], or
[number, "spent", why] from a process that is of no use any more.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from typing import IO, Any

from lowregret.errors import LowregretError
from lowregret.strict_json import to_json
from lowregret.tasks.base import Problem, Task
from lowregret.tasks.confine import bound, confinement, renew_time, shut
from lowregret.tasks.protocol import NoRewardError, Order, as_reward
from lowregret.tasks.registry import open_task

_LONGEST_REASON = 500
"""Characters."""


def main(descriptor: int) -> None:
    """Grade until the other end closes."""
    source = os.fdopen(descriptor, "rb", closefd=False)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(2, 1)  # what a reward function prints must not be taken for an answer of the program that trains
    order: Order = pickle.load(source)
    if order.walls is not None:
        shut(order.walls)
    threading.Thread(target=_end_with, args=(order.parent,), daemon=True).start()
    try:
        sys.path[:] = order.path
        task = open_task(order.task)
        task.load()
    except LowregretError as error:
        _say(descriptor, 0, "error", str(error))
        return
    if order.silent:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    if order.walls is not None:
        bound()
    _say(descriptor, 0, "ready", {} if order.walls is None else confinement(order.parent, order.folders))
    _serve(source, descriptor, task, order)


def _serve(source: IO[bytes], descriptor: int, task: Task, order: Order) -> None:
    while True:
        try:
            samples = pickle.load(source)
        except EOFError:
            return
        for number, completion, problem in samples:
            if order.walls is not None:
                renew_time(order.time_limit)
            _say(descriptor, number, *answer(task, completion, problem, order.task))
        samples = completion = problem = None  # not in memory beside the next


def answer(task: Task, completion: str, problem: Problem, name: str) -> tuple[str, Any]:
    """("reward", a number), ("failed", why there is none) or ("spent", the same when memory ran out)."""
    try:
        return "reward", as_reward(task.grade(completion, problem), name)
    except MemoryError:
        return "spent", f"{name} took more memory than grading may"
    except NoRewardError as error:
        return "failed", str(error)[:_LONGEST_REASON]
    except BaseException as error:  # SystemExit too: a reward function may not end the run
        try:
            reason = str(error)
        except Exception:  # of a class that the completion has made
            reason = "without a message"
        return "failed", f"raised {type(error).__name__}: {reason}"[:_LONGEST_REASON]


def _say(descriptor: int, number: int, kind: str, value: Any) -> None:
    line = (to_json([number, kind, value]) + "\n").encode()
    while line:
        line = line[os.write(descriptor, line) :]


def _end_with(parent: int) -> None:
    """A reward function that never ends must not outlive the program that trains."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
