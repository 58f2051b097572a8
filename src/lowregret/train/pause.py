"""A run that waits between two steps, because somebody asked it to (`runs.requests.pause`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lowregret.runs.requests import go_on, is_paused

_LOOK_SECONDS = 0.2


def hold(folder: Path, should_stop: Callable[[], bool], say: Callable[[str], None], save: Callable[[], None]) -> None:
    """Wait for as long as a run, or the study that it is a group of, is asked to; `save` comes first."""
    if not is_paused(folder):
        return
    save()
    say("paused from outside, after a checkpoint; Ctrl-C stops")
    while is_paused(folder) and not should_stop():
        time.sleep(_LOOK_SECONDS)
    if not should_stop():
        say("goes on")


def forget_pause(folder: Path, say: Callable[[str], None]) -> None:
    """Who starts a run wants it to go on: a pause of before is over."""
    if is_paused(folder):
        go_on(folder)
        say(f"{folder}: was paused, and goes on")
