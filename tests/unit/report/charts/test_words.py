"""Numbers and verdicts as a reader would say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.report.charts import words


@given(st.floats(1e-9, 999))
def test_a_rate_is_right_to_three_digits(value: float) -> None:
    assert float(words.rate(value)) == pytest.approx(value, rel=5.1e-3)


@given(st.floats(0, 9e14))
def test_a_size_never_shows_four_digits_before_its_unit(value: float) -> None:
    number, unit = words.size(value).split(" ")
    assert float(number) < 1000
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(value, rel=5.1e-3, abs=0.01)


@pytest.mark.parametrize(
    ("value", "said"),
    [(2e-4, "2e-4"), (2.83e-4, "2.83e-4"), (0.0005, "5e-4"), (1.0, "1e0"), (9.996e-5, "1e-4")],
)
def test_rates(value: float, said: str) -> None:
    assert words.rate(value) == said


def test_units() -> None:
    assert words.seconds(19.42) == "19.4 s"
    assert words.seconds(600) == "10 min"
    assert words.seconds(9000) == "2.5 h"
    assert words.count(983_424) == "983 k"
    assert words.count(999_999) == "1 M"
    assert words.signed(-0.00119) == "−0.0012"
