"""What the program is doing now, for whoever shows it: reading, evaluating, exporting. A leaf, which shows nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(eq=False)
class Activity:
    """Something that takes its time."""

    what: str
    """Such as `reading train.jsonl`."""
    total: int | None = None
    """How many parts it has, where that is known."""
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    """Seconds of the monotonic clock."""

    def advance(self, parts: int = 1) -> None:
        """So many parts more are done."""
        self.done += parts


_STACK: ContextVar[list[Activity] | None] = ContextVar("STACK", default=None)
"""Where the activities of this thread are told, innermost last; nowhere outside `told`."""


@contextmanager
def told(stack: list[Activity]) -> Iterator[None]:
    """Keep what is being done in `stack`, innermost last, for another thread to look at."""
    token = _STACK.set(stack)
    try:
        yield
    finally:
        _STACK.reset(token)


@contextmanager
def doing(what: str, total: int | None = None) -> Iterator[Activity]:
    """Tell that this is being done, of so many parts, until the block ends."""
    activity = Activity(what, total)
    stack = _STACK.get()
    if stack is None:
        yield activity
        return
    stack.append(activity)
    try:
        yield activity
    finally:
        stack.remove(activity)
