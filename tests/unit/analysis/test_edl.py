"""The excess description length of a curve, and the regime that it tells."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from lowregret.analysis.edl import HeldOutPoint, excess_description_length
from lowregret.errors import SpecError


def test_edl_by_hand() -> None:
    """Σ first-epoch loss − n · final loss, in bits a token; the slope by the two evaluations."""
    losses = [4.0, 3.0, 2.0, 1.0]
    found = excess_description_length(losses, [HeldOutPoint(0.5, 1.5), HeldOutPoint(1.0, 1.0)], 1.0)
    assert found.bits_per_token == pytest.approx((2.5 - 1.0) / math.log(2))
    assert found.first_epoch_bits_per_token == pytest.approx(2.5 / math.log(2))
    # EDL/n is 3.5 − 1.5 after two steps and 2.5 − 1.0 after four.
    assert found.slope == pytest.approx((1.5 - 2.0) / math.log(2) / (math.log(4) - math.log(2)))
    assert found.regime == "unknown"  # two points have no error of their own


def test_two_evaluations_decide_no_regime_and_say_which_would() -> None:
    """A line goes through any two points: however steep it is, it tells nothing."""
    losses = [3.0] * 120
    for first, last in ((2.9, 0.1), (0.1, 2.9)):
        found = excess_description_length(losses, [HeldOutPoint(0.6, first), HeldOutPoint(1.0, last)], last)
        assert found.regime == "unknown"
        assert found.note == (
            "the pilot has 2 evaluations in the second half of its first epoch; "
            "5 or more may tell: --evals 60,75,90,105,120"
        )
    four = [HeldOutPoint(step / 120, 3.0 - 2.0 * math.log(step / 50)) for step in (60, 80, 100, 120)]
    assert excess_description_length(losses, four, 1.3).note.startswith("the pilot has 4 evaluations")
    told = [HeldOutPoint(step / 120, 3.0 - 2.0 * math.log(step / 50)) for step in (60, 75, 90, 105, 120)]
    found = excess_description_length(losses, told, 1.3)
    assert (found.regime, found.note) == ("teach", "")
    assert "a longer pilot would tell" in excess_description_length([3.0] * 4, [HeldOutPoint(1.0, 1.0)], 1.0).note


def test_the_regime_is_the_sign_of_the_slope() -> None:
    """A loss that drops at once is elicited; one that the held-out loss runs ahead of, step after step, is taught."""
    quick = [3.0, *[1.0] * 99]
    slow = [3.0] * 100
    shares = (0.5, 0.625, 0.75, 0.875, 1.0)
    evaluations = [HeldOutPoint(share, nll) for share, nll in zip(shares, (2.5, 2.25, 2.0, 1.8, 1.6), strict=True)]
    flat = [HeldOutPoint(share, 1.0) for share in shares]
    assert excess_description_length(quick, flat, 1.0).regime == "elicit"
    assert excess_description_length(slow, evaluations, 1.6).regime == "teach"
    assert excess_description_length(slow, evaluations[:1], 2.5).regime == "unknown"


@pytest.mark.parametrize("wobble", [0.04, 0.06, 0.09, 0.15])
@pytest.mark.parametrize("rise", [0.1, -0.1])
def test_a_slope_whose_interval_has_zero_in_it_tells_nothing(rise: float, wobble: float) -> None:
    """By scipy's standard error and t; here the slope is from under one to over four errors."""
    steps = [50, 60, 70, 80, 90, 100]
    edl = [rise * math.log(step) + wobble * (-1) ** place / 4 for place, step in enumerate(steps)]
    line = stats.linregress([math.log(step) for step in steps], edl)
    evaluations = [HeldOutPoint(step / 100, 1.0 - bits * math.log(2)) for step, bits in zip(steps, edl, strict=True)]
    found = excess_description_length([1.0] * 100, evaluations, 0.5)
    assert found.slope == pytest.approx(line.slope)
    few = abs(line.slope) <= stats.t.ppf(0.975, len(steps) - 2) * line.stderr
    assert found.regime == ("unknown" if few else "teach" if line.slope > 0 else "elicit")
    assert ("up or down" in found.note) == few


def test_the_first_half_of_an_epoch_says_nothing_of_the_regime() -> None:
    """Every training rises at first, when it has learned nothing yet."""
    late = [HeldOutPoint(share, 1.0) for share in (0.5, 0.75, 1.0)]
    losses = [3.0, *[1.0] * 99]
    assert excess_description_length(
        losses, [HeldOutPoint(0.1, 3.0), HeldOutPoint(0.2, 2.0), *late], 1.0
    ) == excess_description_length(losses, late, 1.0)


def test_a_slope_within_its_noise_says_nothing() -> None:
    noisy = [HeldOutPoint(share, nll) for share, nll in ((0.5, 1.0), (0.6, 1.3), (0.7, 0.9), (0.8, 1.2), (1.0, 1.0))]
    found = excess_description_length([2.0] * 100, noisy, 1.0)
    assert found.slope is not None
    assert found.regime == "unknown"


def test_a_pilot_without_steps_says_so() -> None:
    with pytest.raises(SpecError, match="without a training step"):
        excess_description_length([], [], 1.0)
