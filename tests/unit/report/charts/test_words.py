"""Numbers and verdicts as a reader would say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.report.charts import words


@given(st.floats(1e-9, 999))
def test_a_rate_is_right_to_three_digits(value: float) -> None:
    assert float(words.rate(value)) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("value", "said"),
    [(2e-4, "2e-4"), (2.83e-4, "2.83e-4"), (0.0005, "5e-4"), (1.0, "1e0"), (9.996e-5, "1e-4")],
)
def test_rates(value: float, said: str) -> None:
    assert words.rate(value) == said


def test_units() -> None:
    assert words.signed(-0.00119) == "−0.0012"
