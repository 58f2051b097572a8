"""What rests on best learning rates."""

from __future__ import annotations

from lowregret.analysis.fits import Estimate
from lowregret.analysis.rates import unless_loose


def test_a_note_on_a_best_rate_takes_the_interval_away() -> None:
    known = Estimate(value=1.5, low=1.4, high=1.6, n=3)
    assert unless_loose(known, "") == known
    assert unless_loose(known, "A best rate is not bracketed.") == Estimate(value=1.5, n=3)
