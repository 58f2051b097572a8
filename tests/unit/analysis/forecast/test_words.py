"""What a forecast says, and when it says that nothing is forecast."""

from __future__ import annotations

from typing import Any

import pytest

from lowregret.analysis.forecast.words import expected_lines, sentences
from lowregret.runs.forecast import Forecast, ForecastedRegret


def forecast(**fields: Any) -> Forecast:
    regret = {
        "method": "lora:4",
        "share": 0.02,
        "share_interval": (-0.01, 0.04),
        "regret_nats": 0.03,
        "nats_interval": (-0.015, 0.06),
        "chance_low": 0.95,
        "at_pilot": 0.05,
        "lag": 1.5,
        "far": False,
    }
    one = ForecastedRegret.model_validate(regret | fields)
    return Forecast(forecasts=(one,), tolerance=0.05, learned=1.5, step=11, steps=60, cost=0.15, bank="the bank")


@pytest.mark.parametrize(
    ("chance", "said"),
    [(0.95, ": below the tolerance of 5.0%"), (0.05, ": above the"), (0.6, "below it with a chance of 60%")],
)
def test_the_side_of_the_tolerance_is_said_where_it_is_sure(chance: float, said: str) -> None:
    first, rests, last = sentences(forecast(chance_low=chance))
    assert first.startswith("lora:4: a regret of +2.0% of what full fine-tuning learns is expected (-1.0% to +4.0%")
    assert said in first
    assert "pilots of 11 of 60 steps, 15% of a full comparison's, and the bank" in rests
    assert "lowregret compare" in last


def test_an_interval_as_wide_as_all_that_is_learned_is_no_forecast() -> None:
    first = sentences(forecast(share_interval=(-0.6, 0.6)))[0]
    assert first.startswith("lora:4: nothing is forecast")
    assert "+2.0%" not in first
    assert "In the pilots it is +5.0%, at 1.5 times the steps." in first


def test_the_side_is_that_of_the_tolerance_that_the_forecast_was_made_for() -> None:
    found = forecast(chance_low=0.05)
    assert ": above the tolerance of 5.0%. In the pilots" in expected_lines(found, 0.05)[0]
    for other in (0.2, None):
        (line,) = expected_lines(found, other)
        assert "tolerance" not in line
        assert "in nine of ten cases), +0.0300 nats (-0.0150 to +0.0600). In the pilots it is +5.0%" in line
