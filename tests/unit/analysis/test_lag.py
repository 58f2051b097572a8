"""The regret in steps, on curves that are each other's, drawn out by a known factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.analysis.in_steps import alternative, in_steps
from lowregret.analysis.interval import Interval
from lowregret.analysis.lag import Curve, factor, measure_lag, steps_to, with_costs
from lowregret.analysis.numbers import LOSS
from lowregret.runs.study import NO_COSTS, Costs
from lowregret.runs.verdict import Lag
from lowregret.train.schedule import eval_steps

BASE, STEPS = 2.0, 480
LAWS: dict[str, Callable[[float], float]] = {
    "straight in the logarithm": lambda step: 1.8 - 0.2 * math.log(step),
    "a power": lambda step: 0.3 + 1.5 * step**-0.4,
    "an exponential": lambda step: 0.1 + 1.9 * math.exp(-step / 200),
}


def curve(law: Callable[[float], float], k: float = 1.0, shift: float = 0.0) -> dict[int, float]:
    """A method that needs k times the steps, evaluated as a run is."""
    return {0: BASE, **{step: law(step / k) + shift for step in sorted(eval_steps(8, STEPS))}}


def regret_of(lora: Curve, full: Curve, half: float = 0.01) -> Interval:
    value = lora[STEPS] - full[STEPS]
    return Interval(value, value - half, value + half, 9, 1e-4, 1e-4, 100, 3)


def test_between_evaluations_it_is_the_logarithm_of_the_step_that_is_straight() -> None:
    found = {0: 2.0, 100: 1.0, 400: 0.5}
    assert steps_to(found, 0.75) == pytest.approx(200)
    assert steps_to(found, 1.0) == 100
    assert steps_to(found, 0.5) == pytest.approx(400)
    assert steps_to(found, 0.4) is None, "never so low"
    assert steps_to(found, 1.5) is None, "before anybody looked"


def test_a_curve_that_rises_again_was_as_low_the_first_time() -> None:
    assert steps_to({100: 1.0, 200: 0.5, 400: 0.8}, 0.75) == pytest.approx(math.sqrt(100 * 200))
    assert steps_to({100: 1.0, 200: 1.2, 400: 0.5}, 0.75) == pytest.approx(math.sqrt(200 * 400))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", [1.1, 1.4, 2.0, 0.8, 0.5])
def test_a_known_factor_is_found(law: str, k: float) -> None:
    """Within 3 %: between evaluations the law need not be straight in the logarithm."""
    full, lora = curve(LAWS[law]), curve(LAWS[law], k)
    assert factor(lora, full, lora[STEPS] - full[STEPS]) == pytest.approx(k, rel=0.03)


def test_the_interval_is_the_regrets_carried_over_and_excludes_one_when_that_excludes_zero() -> None:
    law = LAWS["straight in the logarithm"]
    full, lora = curve(law), curve(law, 1.3)
    regret = 0.2 * math.log(1.3)
    found = measure_lag([lora] * 3, [full] * 3, regret_of(lora, full, 0.02))
    assert found is not None
    assert (found.factor, found.low, found.high) == pytest.approx(
        [math.exp(bound / 0.2) for bound in (regret, regret - 0.02, regret + 0.02)]
    )
    assert found.extrapolated
    wide = measure_lag([lora] * 3, [full] * 3, regret_of(lora, full, 0.06))
    assert wide is not None
    assert wide.low is not None
    assert wide.high is not None
    assert wide.low < 1 < wide.high
    assert wide.low == pytest.approx(math.exp((regret - 0.06) / 0.2))


def side(name: str, seconds: float) -> Any:
    return SimpleNamespace(name=name, seconds_alone=seconds)


def test_the_costs_are_those_of_a_lora_run_as_long_as_the_lag_says() -> None:
    """1.3 times the steps at half the time and 0.8 of the multiply-adds; FullFT's run takes an hour at 3 dollars."""
    costs = Costs({"lora:4": 8.0, "full": 10.0}, price_per_hour=3.0)
    found = with_costs(Lag(factor=1.3), side("lora:4", 1800.0), side("full", 3600.0), costs)
    assert (found.seconds, found.multiply_adds) == pytest.approx((0.65, 1.04))
    assert found.dollars == pytest.approx((1.95, 3.0))
    assert "of full fine-tuning's, 1.95 dollars instead of 3.00." in " ".join(in_steps("lora:4", found, LOSS))
    plain = with_costs(Lag(factor=1.3), side("lora:4", 1800.0), side("full", 3600.0), NO_COSTS)
    assert (plain.seconds, plain.multiply_adds, plain.dollars) == (pytest.approx(0.65), None, None)


def test_a_regret_beyond_the_first_evaluation_has_no_upper_bound() -> None:
    full = curve(LAWS["a power"])
    lora = curve(LAWS["a power"], 1.2, shift=0.15)
    found = measure_lag([lora] * 3, [full] * 3, regret_of(lora, full, 0.2))
    assert found is not None
    assert found.factor is not None
    assert found.high is None
    assert "at least" not in " ".join(in_steps("lora:4", found.model_copy(update={"low": None}), LOSS))
    assert "at least" in " ".join(in_steps("lora:4", found, LOSS))


def test_whether_the_gap_closes_is_read_over_the_seeds_from_half_the_steps_on() -> None:
    full = curve(LAWS["a power"])
    for sign, trend in ((-1, "closes"), (1, "widens"), (0, "unclear")):
        loras = [
            {step: loss + (0.1 + noise) * (step / STEPS) ** sign if step else BASE for step, loss in full.items()}
            for noise in (-0.01, 0.0, 0.01)
        ]
        found = measure_lag(loras, [full] * 3, regret_of(loras[1], full))
        assert found is not None
        assert found.since == 240
        assert found.gap_change == pytest.approx(0.1 * (1 - 0.5**sign))
        if sign:
            assert found.trend == trend
        assert found.still_learned == pytest.approx((full[240] - full[480]) / (BASE - full[480]))


def test_too_few_evaluations_say_why_there_is_no_factor() -> None:
    found = measure_lag([{240: 1.0, 480: 0.9}], [{240: 0.9, 480: 0.8}], regret_of({480: 0.9}, {480: 0.8}))
    assert found is not None
    assert found.factor is None
    assert "--evals" in found.note
    assert "--evals" in " ".join(in_steps("lora:4", found, LOSS))


def test_a_longer_lora_is_an_alternative_only_where_it_is_cheaper_and_the_gap_does_not_widen() -> None:
    cheap = Lag(factor=1.3, low=1.1, high=1.6, extrapolated=True, seconds=0.8, trend="closes")
    assert alternative("lora:16", cheap) == (
        "lora:16, 1.3 times as long: by its lag the same loss, for 0.8 of the time of full fine-tuning; not measured"
    )
    for change in ({"seconds": 1.1}, {"trend": "widens"}, {"factor": None}, {"extrapolated": False}, {"seconds": None}):
        assert alternative("lora:16", cheap.model_copy(update=change)) is None
