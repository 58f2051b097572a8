"""What the choice of the best of several flatters: against simulated choices."""

from __future__ import annotations

import math

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
