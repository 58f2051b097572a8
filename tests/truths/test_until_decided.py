"""Verdicts that are looked at several times, in worlds of known regret: their error holds, and they cost less."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.coverage import SETTINGS
from benchmarks.until_decided import simulate

from lowregret.analysis.spending import ERROR

SETTING = replace(SETTINGS["smollm2"], examples=32)
TOLERANCE = 0.05 * SETTING.learned


@pytest.mark.parametrize(
    ("times", "wrong"), [(0.8, {"regret"}), (1.0, {"low_regret", "regret"}), (1.2, {"low_regret"})]
)
def test_a_verdict_is_false_no_more_often_than_stated(times: float, wrong: set[str]) -> None:
    """1,050 comparisons, where it is hardest: at the tolerance, and close on either side of it."""
    found = simulate(SETTING, times * TOLERANCE, 350, np.random.default_rng(5), beside=False)
    false = sum(said in wrong for said in found.said)
    assert false / 350 <= ERROR + 2 * (ERROR * (1 - ERROR) / 350) ** 0.5  # two standard errors of the count


def test_what_is_clear_is_settled_as_by_a_full_comparison_for_less() -> None:
    for times, said in ((0.0, "low_regret"), (4.0, "regret")):
        found = simulate(
            SETTINGS["four-loras"], times * 0.05 * SETTINGS["four-loras"].learned, 25, np.random.default_rng(6)
        )
        assert found.said.count(said) >= 24
        assert sum(one == other for one, other in zip(found.said, found.plain, strict=True)) >= 24
        assert statistics.fmean(found.cost) < 0.5
        assert statistics.fmean(found.seeds) < 2.9
