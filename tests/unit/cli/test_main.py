"""The console script."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from lowregret.cli.main import press_again


class Drops:
    """What raises as it goes is told, and dropped."""

    def __init__(self, error: type[BaseException] | None) -> None:
        self.error = error

    def __del__(self) -> None:
        if self.error:
            raise self.error("of no interest")
        signal.raise_signal(signal.SIGINT)


def drop_and_wait() -> None:
    Drops(None)
    time.sleep(10)


def test_a_dropped_ctrl_c_is_pressed_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "unraisablehook", press_again)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drop_and_wait()
    assert time.monotonic() - began < 5
    assert capsys.readouterr().err == ""


def test_what_else_is_dropped_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "unraisablehook", press_again)
    Drops(ValueError)
    assert "ValueError: of no interest" in capsys.readouterr().err
