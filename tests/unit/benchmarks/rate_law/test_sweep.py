"""The parabola of a cell: what a rate gives away, and where an optimum is believed."""

from __future__ import annotations

import pytest
from benchmarks.rate_law.sweep import fit_parabola


def test_a_parabola_is_read_back_exactly() -> None:
    parabola = fit_parabola({x: 0.5 + 0.01 * (x - 1.2) ** 2 for x in (-1.0, 0.5, 1.0, 2.5)})
    assert parabola is not None
    assert (parabola.curvature, parabola.vertex, parabola.lowest) == pytest.approx((0.01, 1.2, 0.5))
    assert parabola.given_away(2.2) == pytest.approx(2.0)
    assert parabola.given_away(1.2) == pytest.approx(0.0)


def test_an_optimum_is_believed_half_an_e_fold_above_the_grid_and_not_below_it() -> None:
    above, below = (
        fit_parabola({x: 0.5 + 0.01 * (x - vertex) ** 2 for x in (0.0, 1.0, 2.0)}) for vertex in (5.0, -3.0)
    )
    assert above is not None
    assert below is not None
    assert (above.optimum, below.optimum) == (2.5, 0.0)
    assert above.given_away(2.5) == pytest.approx(0.0)
    assert above.given_away(3.0) < 0


@pytest.mark.parametrize("losses", [{0.0: 1.0, 1.0: 0.9}, {0.0: 1.0, 1.0: 1.1, 2.0: 1.15, 3.0: 1.16}])
def test_no_parabola_without_three_rates_and_a_minimum(losses: dict[float, float]) -> None:
    assert fit_parabola(losses) is None
