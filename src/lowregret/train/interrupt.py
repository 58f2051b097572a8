"""Ctrl-C between steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType


class Interrupted(InterruptedError):
    """The user asked to stop; a checkpoint has been written."""


@contextmanager
def stop_requests(
    say: Callable[[str], None], signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether one of the signals has arrived; a second SIGINT interrupts at once.

    Outside the main thread, where signals cannot be caught, it is never true.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        with suppress(RuntimeError):  # the console may be in the middle of a line: then the stop is silent
            say("stopping at the next step (Ctrl-C again: at once) …")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, remember) for number in signals}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # one of C cannot be put back
