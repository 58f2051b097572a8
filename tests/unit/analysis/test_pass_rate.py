"""The interval of a pass rate."""

from __future__ import annotations

import pytest

from lowregret.analysis.pass_rate import pass_interval


def test_it_is_wilsons() -> None:
    """8 of 10, as scipy.stats.binomtest(8, 10).proportion_ci(method="wilson") has it."""
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert pass_interval([1.0] * 8 + [0.0] * 2, 1) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_equal_completions_count_once_and_independent_ones_all() -> None:
    """Problems that are always or never solved say as much with 4 samples as with one; equal rates say four times."""
    split = [1.0] * 50 + [0.0] * 50
    low, high = pass_interval(split, 4)
    assert (low, high) == pytest.approx(pass_interval(split, 1), abs=1e-3)
    low, high = pass_interval([0.5] * 100, 4)
    assert (low, high) == pytest.approx(pass_interval([1.0] * 200 + [0.0] * 200, 1), abs=1e-6)


def test_none_and_all_leave_doubt() -> None:
    assert pass_interval([0.0] * 20, 4)[0] == 0.0
    assert 0.1 < pass_interval([0.0] * 20, 4)[1] < 0.2
    assert pass_interval([1.0] * 20, 4)[1] == 1.0
