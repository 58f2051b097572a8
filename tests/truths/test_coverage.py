"""The verdict's interval and its rulings on studies of known regret, searched and judged by the product.

A small run of `benchmarks/coverage.py`, whose settings and bars these are. With 360 studies a setting the standard
error of a coverage of 95 % is 1.1 points: the bounds lie two of them below the bar of 93 %, and above what the plain
paired interval has here (76 to 90 %).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SETTINGS = ("500-examples", "nine-seeds", "quiet", "four-loras-median")


@pytest.fixture(scope="module")
def coverage() -> Any:
    """benchmarks/coverage.py, which is imported from the repository's root."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    yield importlib.import_module("benchmarks.coverage")
    sys.path.pop(0)


@pytest.mark.parametrize("name", SETTINGS)
def test_intervals_hold_the_truth_and_are_no_wider_for_it(coverage: ModuleType, name: str) -> None:
    row = coverage.measure(name, coverage.SETTINGS[name], studies=120)
    assert row.cover >= 0.908
    assert row.cover > row.plain_cover
    assert row.lag_cover >= 0.9
    assert row.ratio <= 1.15
    assert row.false_low <= 0.05
    assert abs(row.bias) <= 0.5
    assert row.says_low_at_zero >= 0.5
