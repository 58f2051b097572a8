"""The process in which completions are graded: `python -m lowregret.tasks.worker FD`, started by `Grader`.

It gets the spelling of a task and answers ("ready", None) or ("error", why); then, for each list of (completion,
Problem), one answer a sample in order: ("reward", number) or ("failed", why).
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from lowregret.errors import LowregretError
from lowregret.tasks.base import Problem, Task
from lowregret.tasks.registry import open_task

_LONGEST_REASON = 500
"""Characters."""


def main(descriptor: int, parent: int) -> None:
    """Grade until the other end closes."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.dup2(2, 1)  # what a reward function prints must not be taken for an answer of the program that trains
    connection: Connection[Any, Any] = Connection(descriptor)
    try:
        spelling, path = connection.recv()
        sys.path[:] = path
        task = open_task(spelling)
        task.load()
    except LowregretError as error:
        connection.send(("error", str(error)))
        return
    connection.send(("ready", None))
    while True:
        try:
            samples = connection.recv()
        except EOFError:
            return
        for completion, problem in samples:
            connection.send(answer(task, completion, problem))


def answer(task: Task, completion: str, problem: Problem) -> tuple[str, Any]:
    """("reward", a finite number) or ("failed", why there is none)."""
    try:
        reward = float(task.grade(completion, problem))
    except BaseException as error:  # SystemExit too: a reward function may not end the run
        return "failed", f"raised {type(error).__name__}: {error}"[:_LONGEST_REASON]
    return ("reward", reward) if math.isfinite(reward) else ("failed", f"returned {reward}")


def _end_with(parent: int) -> None:
    """A reward function that never ends must not outlive the program that trains."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
