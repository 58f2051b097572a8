"""Fits against closed forms and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lowregret.analysis.fits import at, exponential, mean, r_squared, slope


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8))
def test_a_mean_has_students_interval(values: list[float]) -> None:
    found = mean(values)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    assert found.high - found.low == pytest.approx(2 * half, abs=1e-9)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = mean([3.0])
    assert one is not None
    assert not one.known
    assert mean([]) is None


@given(st.integers(0, 1000))
def test_a_line_is_numpys(seed: int) -> None:
    draw = np.random.default_rng(seed)
    xs, ys = draw.normal(size=7).tolist(), draw.normal(size=7).tolist()
    found, expected = slope(xs, ys), stats.linregress(xs, ys)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(expected.slope)
    half = stats.t.ppf(0.975, 5) * expected.stderr
    assert (found.value - found.low, found.high - found.value) == (pytest.approx(half), pytest.approx(half))
    assert found.freedom == 5
    assert r_squared(xs, ys) == pytest.approx(expected.rvalue**2)


def test_a_ratio_keeps_its_interval_around_it() -> None:
    found = exponential(mean([1.0, 2.0, 3.0]))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(4.0)
    assert found.low * found.high == pytest.approx(16.0)


@pytest.mark.parametrize(
    ("step", "value"),
    [(2, 2.0), (1, 3.0), (4, 1.0), (8, 0.75), (16, 0.5), (8.0, 0.75), (0.5, None), (17, None)],
    ids=[
        "half way in the logarithm",
        "first",
        "an evaluation",
        "beside other places",
        "last",
        "real",
        "before",
        "after",
    ],
)
def test_a_curve_is_read_between_its_nearest_evaluations(step: float, value: float | None) -> None:
    """In the logarithm 2 is half way from 1 to 4, and 8 from 4 to 16; in the step they would be a third of it."""
    found = at({0: 9.0, 1: 3.0, 4: 1.0, 16: 0.5}, step)
    assert found == (None if value is None else pytest.approx(value))
