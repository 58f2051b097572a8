"""Sums of places, and what an interval over seeds owes to the rates that were tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.fits import mean, slope
from lowregret.analysis.place import Place, mean_factor, mean_place, middle_place, place_slope

numbers = st.floats(-10, 10)
places = st.builds(Place, numbers, st.floats(0, 2))


@given(st.lists(st.tuples(places, st.floats(-1, 1)), min_size=1, max_size=6), numbers)
def test_what_lies_within_its_parts_lies_within_the_sum(parts: list[tuple[Place, float]], factor: float) -> None:
    """Whatever the factor, and whether added, subtracted or averaged."""
    truths = [place.at + share * place.give for place, share in parts]
    found = middle_place([place for place, _ in parts]) * factor - parts[0][0] + Place(1.0)
    truth = sum(truths) / len(truths) * factor - truths[0] + 1
    assert abs(found.at - truth) <= found.give + 1e-6


@given(st.lists(st.tuples(places, st.floats(-1, 1)), min_size=2, max_size=6))
def test_a_slope_is_that_of_the_points_and_gives_as_far_as_they_do(parts: list[tuple[Place, float]]) -> None:
    xs = [float(x) for x in range(len(parts))]
    found = place_slope(xs, [place for place, _ in parts])
    exact = slope(xs, [place.at for place, _ in parts])
    moved = slope(xs, [place.at + share * place.give for place, share in parts])
    assert found is not None
    assert exact is not None
    assert moved is not None
    assert found.at == pytest.approx(exact.value, abs=1e-6)
    assert abs(found.at - moved.value) <= found.give + 1e-6


def test_one_place_has_no_slope() -> None:
    assert place_slope([2.0, 2.0], [Place(1.0), Place(2.0)]) is None


def test_what_the_rates_leave_open_does_not_shrink_with_the_seeds() -> None:
    plain = mean([1.0, 1.2, 1.4])
    found = mean_place([Place(1.0, 0.5), Place(1.2, 0.5), Place(1.4, 0.2)])
    assert plain is not None
    assert plain.low is not None
    assert plain.high is not None
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low - 0.4, plain.high + 0.4))
    factor = mean_factor([Place(1.0, 0.5), Place(1.2, 0.5), Place(1.4, 0.2)])
    assert factor is not None
    assert (factor.value, factor.low) == pytest.approx((2**found.value, 2 ** (plain.low - 0.4)))
    assert mean_place([]) is None
    alone = mean_place([Place(1.0, 0.5)])
    assert alone is not None
    assert not alone.known


@pytest.mark.parametrize("far", [0.1, 0.5, 1.0, 2.0, 8.0])
def test_the_level_at_a_bound_rules_as_the_interval_does_and_never_too_soon(far: float) -> None:
    """The true α of what is widened by a bound: that of the t interval which ends so much before it."""
    places = [Place(at, 0.4) for at in (-0.1, 0.05, 0.05)]
    found, plain = mean_place(places), mean([place.at for place in places])
    assert found is not None
    assert plain is not None
    assert found.high is not None
    level, true = found.level(far), 1.0 if far <= 0.4 else plain.level(far - 0.4)
    assert level is not None
    assert true is not None
    assert (level <= 0.05) == (far >= found.high) == (true <= 0.05)
    assert level >= true or true > 0.05
