"""The error of a verdict, shared by its looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.interval import paired_difference
from lowregret.analysis.spending import ERROR, error_by, look_error


@given(st.integers(2, 40))
def test_looks_share_the_error_and_the_last_has_most(most: int) -> None:
    spent: list[float] = []
    for seeds in range(2, most + 1):
        spent.append(look_error(seeds, most, sum(spent)))
    assert sum(spent) == pytest.approx(ERROR)
    assert all(each >= 0 for each in spent)
    assert most > 12 or spent == sorted(spent)


def test_what_has_been_spent_is_not_spent_again() -> None:
    assert look_error(2, 2, 0.0) == pytest.approx(ERROR)
    assert look_error(3, 3, ERROR) == pytest.approx(0.0)
    assert look_error(3, 6, ERROR) == 0.0, "asked for more seeds when all had been spent"
    assert error_by(0.0) == 0.0
    assert error_by(2 / 3) == pytest.approx(0.01637, abs=1e-5)  # 2 - 2 * Phi(1.95996 / sqrt(2 / 3))


def test_an_interval_of_another_confidence_has_the_same_estimate() -> None:
    rng = np.random.default_rng(0)
    usual = paired_difference(rng.normal(1, 0.1, (3, 20)), rng.normal(1, 0.1, (3, 20)), np.ones(20, dtype=np.int64))
    wide, whole = usual.at(0.99), usual.at(1.0)
    assert usual.at(0.95) is usual
    assert (wide.value, wide.variance, wide.degrees_of_freedom) == (
        usual.value,
        usual.variance,
        usual.degrees_of_freedom,
    )
    assert wide.low < usual.low < usual.high < wide.high
    assert whole.low == -np.inf
    assert whole.high == np.inf
