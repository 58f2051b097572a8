"""What the program is doing now, shown: a line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Row
from rich.table import Column
from rich.text import Text

from lowregret.activity import Activity
from lowregret.quantities import duration

SILENT_SECONDS = 2.0
"""Without any line, before one says what takes so long."""
_LOOK_SECONDS = 0.25
_MOMENT = 0.4
"""Seconds: what takes less is not worth a line that comes and goes."""
_ROOM_FOR_A_BAR = 80
"""Columns."""
_GROWS = 4
"""A line each quarter of the time that something takes already, so that hours do not fill a log."""


class _Parts(MofNCompleteColumn):
    """How many of how many; how many where only that is known."""

    def render(self, task: Row) -> Text:
        if task.total:
            return super().render(task)
        return Text(f"{int(task.completed):,}" if task.completed else "")


class MovingLine:
    """The innermost activity, as rich draws it whenever it is looked at."""

    def __init__(self, stack: list[Activity]) -> None:
        self._stack = stack
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            _Parts(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
        )
        self._wide = Progress(*columns, auto_refresh=False)
        self._narrow = Progress(
            *(column for column in columns if not isinstance(column, BarColumn)), auto_refresh=False
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = next(iter(self._stack[-1:]), None)
        if now is None or time.monotonic() - now.began < _MOMENT:
            return
        wide = now.total and options.max_width >= _ROOM_FOR_A_BAR
        line = self._wide if wide else self._narrow
        for old in line.task_ids:
            line.remove_task(old)
        line.add_task(escape(now.what), total=now.total, completed=now.done)
        line.tasks[0].start_time = line.get_time() - (time.monotonic() - now.began)
        yield line.make_tasks_table(line.tasks)


class PlainLines:
    """Says what is being done where nothing has been said for a while: for pipes and logs.

    A context manager; `line` must be told of every line that is said by others.
    """

    def __init__(self, stack: list[Activity], say: Callable[[str], None]) -> None:
        self._stack, self._say = stack, say
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lowregret-progress", daemon=True)

    def line(self) -> None:
        """Something was said just now."""
        self._last = time.monotonic()

    def __enter__(self) -> PlainLines:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            now = next(iter(self._stack[-1:]), None)
            if now is None:
                continue
            taken = time.monotonic() - now.began
            if time.monotonic() - self._last >= max(SILENT_SECONDS, taken / _GROWS):
                with suppress(OSError, ValueError):  # a pipe that is closed: whoever says a result meets it
                    self._say(in_words(now, taken))
                self.line()


def in_words(activity: Activity, seconds: float) -> str:
    """Such as `evaluating the base: 64 of 256, 4 s so far`."""
    parts = f"{activity.done:,} of {activity.total:,}, " if activity.total else ""
    parts = parts or (f"{activity.done:,}, " if activity.done else "")
    return f"{activity.what}: {parts}{duration(seconds)} so far"
