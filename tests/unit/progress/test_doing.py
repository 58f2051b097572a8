"""What is being done is told where somebody looks, at any width, and now and then in a pipe."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from lowregret.activity import Activity, doing, told
from lowregret.progress import doing as module
from lowregret.progress.doing import MovingLine, PlainLines, in_words


def test_the_innermost_is_told_and_nothing_is_left() -> None:
    stack: list[Activity] = []
    with doing("unseen") as before:
        before.advance()
    with told(stack), doing("outer"):
        with doing("inner", 4) as inner:
            inner.advance(3)
            assert [each.what for each in stack] == ["outer", "inner"]
        with pytest.raises(ValueError, match="gone"), doing("failing"):
            raise ValueError("gone")
        assert [each.what for each in stack] == ["outer"]
    assert not stack


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("total", [None, 1000])
def test_at_any_width_a_line_says_what_how_much_and_how_long(width: int, total: int | None) -> None:
    activity = Activity("reading and tokenizing builtin:arithmetic", total, 640, time.monotonic() - 61)
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    lines = console.render_lines(MovingLine([activity]), pad=False)
    shown = " ".join(" ".join("".join(part.text for part in line) for line in lines).split())
    assert "reading and tokenizing builtin:arithmetic" in shown
    assert "0:01:01" in shown
    assert ("640/1000" if total else "640 ") in shown.replace("640/ 1000", "640/1000")
    assert "…" not in shown


def test_what_takes_a_moment_is_not_shown() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    assert not "".join(
        part.text for line in console.render_lines(MovingLine([Activity("x")]), pad=False) for part in line
    )


def test_a_pipe_is_told_after_a_silence_and_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)
    said: list[tuple[float, str]] = []
    stack: list[Activity] = []
    began = time.monotonic()
    lines = PlainLines(stack, lambda line: said.append((time.monotonic() - began, line)))
    with told(stack), lines, doing("evaluating", 256) as evaluating:
        evaluating.advance(64)
        time.sleep(0.15)
        lines.line()  # something else was said
        time.sleep(1.3)
    times = [at for at, _ in said]
    assert re.fullmatch(r"evaluating: 64 of 256, 0\.\d+ s so far", said[0][1])
    assert times[0] >= 0.3
    assert 2 <= len(said) <= 7
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count, "the thread has ended"


def test_words() -> None:
    assert in_words(Activity("sampling"), 90.0) == "sampling: 1.5 min so far"
    assert in_words(Activity("reading", done=12_000), 2.0) == "reading: 12,000, 2 s so far"
