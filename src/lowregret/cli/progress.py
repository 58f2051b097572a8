"""What the command line shows while something runs, and asks before it takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live

from lowregret.activity import Activity, told
from lowregret.cli.outcome import aside
from lowregret.errors import DeclinedError
from lowregret.plan.price import Price
from lowregret.progress.console import make_console as make_console
from lowregret.progress.doing import MovingLine, PlainLines
from lowregret.progress.watching import LiveProgress
from lowregret.quantities import duration


def live_progress(*, quiet: bool, to_stderr: bool, yes: bool) -> LiveProgress:
    """What shows a verb's trials. On a terminal it asks before more than an hour is spent, unless told `yes`; a pipe,
    where nobody could answer, is never asked."""
    return LiveProgress(quiet=quiet, to_stderr=to_stderr, agree=_said_yes if yes or not _answered() else _ask)


@contextmanager
def activities_shown() -> Iterator[None]:
    """Show on standard error what is being done, for a verb without trials. Its result is printed afterwards."""
    stack: list[Activity] = []
    console = make_console(stderr=True)
    with told(stack):
        if console.is_terminal:
            with Live(MovingLine(stack), console=console, refresh_per_second=4, transient=True, redirect_stdout=False):
                yield
        else:
            with PlainLines(stack, aside):
                yield


def _answered() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _said_yes(price: Price) -> None: ...


def _ask(price: Price) -> None:
    """Raises DeclinedError for anything but yes."""
    long = duration(price.seconds or 0.0)
    print(
        f"This takes about {long} by the plan. Go on? [y/N] (--yes asks nothing) ", end="", file=sys.stderr, flush=True
    )
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise DeclinedError("not begun: nothing was trained. --yes goes on without asking.")
