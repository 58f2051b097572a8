"""What the probe of this machine keeps of its rounds."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lowregret.engine import probe


def test_rounds_that_others_slow_down_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds but one take three times as long, as beside other programs."""
    clock = [0.0]
    rounds: Iterator[int] = iter(range(probe.ROUNDS + 1))

    def work() -> None:
        clock[0] += 1.0 if next(rounds) == 7 else 3.0

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert probe._fastest(work, 1, probe.ROUNDS) == 1.0
