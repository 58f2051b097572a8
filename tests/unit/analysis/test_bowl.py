"""The bottom of a bowl: against numpy's parabola, by hand, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.bowl import MISFIT, Bowl
from lowregret.analysis.comparison import measure
from lowregret.runs.records import TrialRecord
from lowregret.spec import FullFT, TrialSpec

rises = st.floats(0.001, 2.0)
steps = st.floats(0.5, 3.0)


@given(rises, rises, steps, steps)
def test_it_is_the_parabola_through_the_three(below: float, above: float, to_below: float, to_above: float) -> None:
    found = Bowl(1.0, 1 + below, 1 + above, to_below, to_above).bottom()
    a, b, c = np.polyfit([-to_below, 0, to_above], [1 + below, 1.0, 1 + above], 2)
    assert found.place == pytest.approx(-b / (2 * a), abs=1e-7)
    assert found.depth == pytest.approx(1 - (c - b * b / (4 * a)), abs=1e-7)
    assert -to_below / 2 <= found.place <= to_above / 2
    assert found.misfit == pytest.approx(MISFIT * found.depth)


@given(rises, rises, steps, steps)
def test_the_gains_are_the_derivatives_of_the_depth(
    below: float, above: float, to_below: float, to_above: float
) -> None:
    losses = np.array([1 + below, 1.0, 1 + above])
    found = Bowl(losses[1], losses[0], losses[2], to_below, to_above).bottom()
    for place in range(3):
        moved = losses.copy()
        moved[place] += (tiny := 1e-7)
        after = Bowl(moved[1], moved[0], moved[2], to_below, to_above).bottom()
        if abs(found.place) < 0.49 * min(to_below, to_above):
            assert (after.depth - found.depth) / tiny == pytest.approx(found.gains[place], abs=1e-3)
    assert sum(found.gains) == pytest.approx(0.0, abs=1e-12), "a loss common to all three moves no depth"


def test_half_way_between_equals_the_depth_is_an_eighth_of_the_other_rise() -> None:
    found = Bowl(1.0, 1.4, 1.0).bottom()
    assert (found.place, found.depth) == pytest.approx((0.5, 0.05))
    assert found.variance(0.01) == pytest.approx(0.01 * (3 * 0.5**4 + 0.5**2) / 2 + (MISFIT * 0.05) ** 2)


def test_the_bottom_beside_a_lower_neighbour_is_kept_half_way() -> None:
    """Of another seed than the search's the best rate need not be the lowest."""
    assert Bowl(1.0, 1.1, 0.95).bottom().place == 0.5


@pytest.mark.parametrize(
    ("below", "above", "at", "give"),
    [
        (1.3, 1.1, 0.25, 0.0),
        (1.4, math.inf, 0.25, 0.75),  # half way up is one doubling
        (math.inf, 1.4, 0.25, 0.75),
        (math.inf, math.inf, 0.25, 0.75),
        (0.9, 1.4, -0.5, 0.5),
        (0.9, math.inf, -0.5, 0.5),
        (1.4, 0.9, 1.0, 1.0),
        (math.inf, 0.9, 1.0, 1.0),
        (0.8, 0.9, 0.5, 1.5),
        (1.0, 1.0, 0.25, 0.75),
    ],
)
def test_where_the_bottom_lies(below: float, above: float, at: float, give: float) -> None:
    """A doubling down, and two up where no parabola says more."""
    parabola = give == 0
    place = Bowl(1.0, below, above, 1.0, 1.0 if parabola else 2.0).place()
    assert (place.at, place.give) == pytest.approx((at, give))


@given(st.floats(0.1, 2.0), st.floats(-1, 1))
def test_no_parabola_s_bottom_lies_where_its_place_cannot_be(bend: float, off: float) -> None:
    """Of any seed, whose middle rate need not be its lowest; walls, too, as long as the bottom is half way at most."""

    def loss(place: float) -> float:
        return 1 + bend * (place - off) ** 2

    bowl = Bowl(loss(0), loss(-1), loss(1))
    place = bowl.place()
    assert abs(place.at - off) <= place.give + 1e-9
    if abs(off) <= 0.5:
        for walled in (Bowl(loss(0), math.inf, loss(1)), Bowl(loss(0), loss(-1), math.inf)):
            assert abs(walled.place().at - off) <= walled.place().give + 1e-9


@pytest.mark.parametrize(("below", "above"), [(1.4, math.inf), (math.inf, 1.4)])
def test_beside_a_rate_that_diverged_there_is_doubt_and_no_depth(below: float, above: float) -> None:
    found = Bowl(1.0, below, above).bottom()
    assert (found.place, found.depth) == (0.0, 0.0)
    assert found.variance(1.0) == pytest.approx(0.05**2)


@pytest.mark.parametrize(("below", "above"), [(1.0, 1.0), (math.inf, math.inf)])
def test_a_flat_one_and_one_between_divergences_say_nothing(below: float, above: float) -> None:
    found = Bowl(1.0, below, above).bottom()
    assert (found.place, found.depth, found.variance(1.0)) == (0.0, 0.0, 0.0)


def test_a_neighbour_that_ends_worse_than_the_base_began_has_left_the_bowl() -> None:
    """As on SmolLM2: a loss of 10.4 beside 0.72 and 0.78, where the base has 4.8, is no side of a parabola."""
    assert Bowl(0.72, 0.78, 10.4).bottom().depth > 1, "what it would come to"
    left = Bowl.around(0.72, 0.78, 10.4, start=4.8)
    assert left == Bowl(0.72, 0.78, math.inf)
    assert left.bottom().depth == 0
    assert Bowl.around(0.72, 1.53, 0.78, start=4.8).below == 1.53
    assert Bowl.around(0.72, 1.54, 0.78, start=4.8).below == math.inf, "over a fifth of the 4.08 nats learned"
    assert Bowl.around(0.72, 0.78, 10.4, start=None) == Bowl(0.72, 0.78, 10.4)
    assert Bowl.around(0.72, 0.78, 0.9, start=0.7) == Bowl(0.72, 0.78, 0.9), "nothing learned: no share of it"


def test_a_methods_bowl_knows_what_the_base_had() -> None:
    losses = {1e-3: 0.78, 2e-3: 0.72, 4e-3: 10.4}
    records = [
        TrialRecord.of(TrialSpec(method=FullFT(), learning_rate=rate), status="finished", test_nll=loss)
        for rate, loss in losses.items()
    ]
    rate = measure(FullFT(), records, 4.8).rate
    assert rate.bracketed
    assert rate.bowl == Bowl(0.72, 0.78, math.inf)
    result = measure(FullFT(), records, 4.8).result()
    assert result.depth == 0
