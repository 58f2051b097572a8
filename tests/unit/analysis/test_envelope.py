"""Where a curve leaves another, by hand."""

from __future__ import annotations

import pytest

from lowregret.analysis.envelope import departure

COMMON = {1: 2.0, 2: 2.0, 4: 2.0}
"""One nat below the base's 3.0 throughout, so that a curve has left at 0.05 nats."""


def test_a_departure_lies_between_two_evaluations_in_the_logarithm() -> None:
    """From 0.01 nats short of it to 0.04 beyond: a fifth of the way from step 2 to step 4."""
    assert departure({1: 2.0, 2: 2.04, 4: 2.09}, COMMON, 3.0) == pytest.approx(2 * 2**0.2)


def test_a_curve_that_comes_back_leaves_when_it_leaves_for_good() -> None:
    assert departure({1: 2.5, 2: 2.04, 4: 2.09}, COMMON, 3.0) == pytest.approx(2 * 2**0.2)
    assert departure({1: 2.5, 2: 2.5, 4: 2.0}, COMMON, 3.0) is None


def test_a_curve_that_is_above_from_the_start_left_by_the_first_evaluation() -> None:
    assert departure({1: 2.5, 2: 2.6, 4: 2.7}, COMMON, 3.0) == 1.0
