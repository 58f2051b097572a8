"""How durations, bytes and large counts are written for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.quantities import bits, byte_count, count, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.031, "0.031 s"), (7.31, "7.3 s"), (60, "60 s"), (100, "1.7 min"), (5000, "83 min"), (7200, "2 h"),
     (200_000, "2.3 days"), (1e8, "1,157 days")],
)  # fmt: skip
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(0, 9e14))
def test_a_size_never_shows_four_digits_before_its_unit(value: float) -> None:
    number, unit = byte_count(value).split(" ")
    assert float(number) < 1000
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(value, rel=5.1e-3, abs=0.01)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (999, "999"), (999.9, "1 k"), (43_600_000, "43.6 M"), (8.03e9, "8.03 B"), (2e13, "20 T")],
)
def test_count(value: float, words: str) -> None:
    assert count(value) == words


def test_units() -> None:
    assert [byte_count(value) for value in (0, 999, 43.64e9, 1.2e13)] == ["0 B", "999 B", "43.6 GB", "12 TB"]
    assert (bits(12), bits(1.2e6)) == ("12 bit", "1.2 Mbit")
