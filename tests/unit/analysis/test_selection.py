"""What the choice of the best of several flatters: against simulated choices."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from lowregret.analysis.selection import flattery


def test_of_equals_it_is_the_expected_minimum_of_normal_numbers() -> None:
    """Of two: −1/√π; of three: −3/(2√π). Tippett 1925 has four: −1.02938."""
    assert flattery([0.5] * 2, 1.0) == pytest.approx(-1 / math.sqrt(math.pi), abs=1e-4)
    assert flattery([0.5] * 3, 4.0) == pytest.approx(-3 / math.sqrt(math.pi), abs=1e-4)
    assert flattery([0.5] * 4, 1.0) == pytest.approx(-1.02938, abs=1e-4)


def test_one_that_is_far_better_is_not_flattered_and_one_alone_is_no_choice() -> None:
    assert flattery([0.0, 10.0, 11.0], 1.0) == pytest.approx(0.0, abs=1e-6)
    assert flattery([0.3], 1.0) == 0.0
    assert flattery([0.1, 0.2], 0.0) == 0.0


@pytest.mark.parametrize("truths", [(0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 1.0, 2.0, 3.0)])
def test_it_takes_the_bias_off_the_minimum(truths: tuple[float, ...]) -> None:
    """What is left of it is under a quarter of a standard error; uncorrected it is up to a whole one."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(2000, len(truths))) + truths
    corrected = [row.min() - flattery(row.tolist(), 1.0) for row in measured]
    assert abs(float(np.mean(corrected)) - min(truths)) < 0.25


def by_hand(regrets: tuple[float, ...]) -> list[float]:
    """What the true ones are taken for, in standard errors."""
    middle, spread = statistics.fmean(regrets), statistics.variance(regrets)
    return [middle + math.sqrt(max(0.0, 1 - 1 / spread)) * (regret - middle) for regret in regrets]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e-5])
@pytest.mark.parametrize("apart", [1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 300.0, 1e4, 1.5e4, 2e4, 1e6])
def test_of_two_it_is_the_closed_form_however_far_apart(apart: float, scale: float) -> None:
    """E min = a Φ(g / θ) + b Φ(−g / θ) − θ φ(g / θ) with g = b − a and θ² = 2 σ² (Clark 1961)."""
    low, high = by_hand((0.0, apart))
    theta = math.sqrt(2)
    place = (high - low) / theta
    below = 0.5 * math.erfc(place / math.sqrt(2))
    exact = (high - low) * below - theta * math.exp(-(place**2) / 2) / math.sqrt(2 * math.pi)
    for start in (0.0, 0.0104, apart / 700):  # wherever the points lie
        found = flattery([start * scale, (start + apart) * scale], scale**2)
        assert found == pytest.approx(exact * scale, abs=1e-6 * scale)


@pytest.mark.parametrize(
    "regrets", [(0.0, 0.2, 3.0, 3.1), (0.0, 0.5, 1.0, 1e4), (0.0, 0.1, 0.2, 5e3, 1e5), (-1.0, 1e6, 2e6)]
)
def test_of_many_it_is_what_draws_come_to(regrets: tuple[float, ...]) -> None:
    means = np.array(by_hand(regrets))
    draws = (means + np.random.default_rng(1).normal(size=(400_000, len(means)))).min(axis=1)
    assert flattery(regrets, 1.0) == pytest.approx(min(0.0, float(draws.mean() - means.min())), abs=0.006)
