"""What rests on best learning rates."""

from __future__ import annotations

import pytest

from lowregret.analysis.fits import Estimate
from lowregret.analysis.rates import formula_rate, unless_loose


def test_a_note_on_a_best_rate_takes_the_interval_away() -> None:
    known = Estimate(value=1.5, low=1.4, high=1.6, n=3)
    assert unless_loose(known, "") == known
    assert unless_loose(known, "A best rate is not bracketed.") == Estimate(value=1.5, n=3)


@pytest.mark.parametrize(
    ("name", "hidden", "rate"),
    [("Llama-3.2-1B", 2048, 4.908e-4), ("Llama-3.1-8B", 4096, 2.856e-4), ("Qwen3-8B", 4096, 4.730e-4)],
)
def test_the_formula_gives_the_rates_that_are_printed_for_it(name: str, hidden: int, rate: float) -> None:
    """SCIENCE 4."""
    assert formula_rate(name, hidden) == pytest.approx(rate, rel=2e-4)
