"""The rule, and what the means leave out."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.fits import Estimate, mean
from lowregret.questions.claim import Statement
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import Claim, corrected, expected_false, holm, judge_study, p_value, rule
from lowregret.questions.registry import make_question

WITHIN = Statement(key="k", number="0", sentence="s", statistic="t", unit="ratio", low=1.0, high=2.0)


@given(st.floats(0, 3), st.floats(0, 3))
def test_a_claim_holds_only_wholly_inside_and_fails_only_wholly_outside(a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = rule(WITHIN, Estimate(value=(low + high) / 2, low=low, high=high, n=3))
    assert (found == "holds") == (low >= 1 and high <= 2)
    assert (found == "does not hold") == (high < 1 or low > 2)


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (None, 0.0)])
def test_nothing_at_all_is_neither_above_nor_below_zero(low: float | None, high: float | None) -> None:
    stated = WITHIN.model_copy(update={"low": low, "high": high})
    assert rule(stated, Estimate(value=0.0, low=0.0, high=0.0, n=3)) == "does not hold"
    sign = 1.0 if low is not None else -1.0
    assert rule(stated, Estimate(value=sign, low=sign, high=sign, n=3)) == "holds"
    assert rule(stated, Estimate(value=0.0, low=-1.0, high=1.0, n=3)) == "open"


def test_without_an_interval_nothing_is_decided() -> None:
    assert rule(WITHIN, Estimate(value=1.5)) == "open"


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("kind", ["learning-rate", "variants"])
def test_a_seed_that_diverged_at_a_best_rate_is_named(fake_studies: ModuleType, tmp_path: Path, kind: str) -> None:
    fake_studies.make(tmp_path, make_question({"kind": kind, "steps": 16, "seeds": 4}))
    before = judge_study(read_evidence(tmp_path))
    assert before.diverged == ()
    assert not any("diverged" in claim.note for claim in before.claims)
    (best,) = (run for run in read_evidence(tmp_path).conditions["main"].at_best("full") if run.record.seed == 2)
    edit(best.home / "trial.json", lambda value: value.update(status="diverged", test_nll=None))
    after = judge_study(read_evidence(tmp_path))
    assert after.diverged == ("seed 2 of full (main)",)
    assert all("diverged at a best rate: seed 2 of full (main)" in claim.note for claim in after.claims)


def test_a_search_trial_that_diverged_elsewhere_is_left_out_of_nothing(
    fake_studies: ModuleType, tmp_path: Path
) -> None:
    fake_studies.make(tmp_path, make_question({"kind": "learning-rate", "steps": 16}))
    highest = read_evidence(tmp_path).conditions["main"].of("full", 0)[-1]
    edit(highest.home / "trial.json", lambda value: value.update(status="diverged", test_nll=None))
    assert judge_study(read_evidence(tmp_path)).diverged == ()


def test_a_trial_that_somebody_stopped_is_named(fake_studies: ModuleType, tmp_path: Path) -> None:
    fake_studies.make(tmp_path, make_question({"kind": "learning-rate", "steps": 16}))
    highest = read_evidence(tmp_path).conditions["main"].of("full", 0)[-1]
    stopped = {"status": "failed", "test_nll": None, "error": "stopped by request after step 3"}
    edit(highest.home / "trial.json", lambda value: value.update(stopped))
    found = judge_study(read_evidence(tmp_path))
    assert found.stopped == (f"full at {highest.record.learning_rate:.3g}, seed 0 (main)",)
    assert all("was stopped by request: full at" in claim.note for claim in found.claims)


# --- one of many ------------------------------------------------------------------------------------------------------


def statement(low: float | None = None, high: float | None = None) -> Statement:
    return Statement(key="k", number="3", sentence="s", statistic="t", unit="number", low=low, high=high)


def of(value: float, half: float, freedom: float = 2.0) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=3, freedom=freedom)


def claim(p: float | None, ruling: str = "holds") -> Claim:
    return Claim.model_validate({"statement": statement(low=0.0), "ruling": ruling, "estimate": None, "p": p})


def test_an_interval_without_an_end_decides_only_on_the_other_side() -> None:
    """A range of LoRA's rates that had not ended is at least so wide: it may not be ruled out."""
    open_above = of(0.8, 0.1).without("high")
    assert rule(statement(low=1.0), open_above) == "open"
    assert rule(statement(low=0.5), open_above) == "holds"
    assert rule(statement(low=1.0), of(0.8, 0.1)) == "does not hold"
    assert rule(statement(low=1.0), of(1.5, 0.1).without("low")) == "open"


@given(st.floats(-2, 2), st.floats(0.01, 2), st.floats(-1, 0.9), st.floats(1, 30))
def test_the_p_value_is_where_a_wider_interval_stops_ruling(
    value: float, half: float, bound: float, freedom: float
) -> None:
    """At α = 0.05 the interval is the 95 % one, so a ruling of that is a p-value of 0.05 at most."""
    stated, found = statement(low=bound), of(value, half, freedom)
    p = p_value(stated, found)
    assert p is not None
    assert (p <= 0.05) == (rule(stated, found) != "open") or abs(p - 0.05) < 1e-6


def test_the_p_value_of_a_mean_over_three_seeds_is_that_of_the_t_test() -> None:
    from scipy import stats

    values = [0.3, 0.5, 0.4]
    found = mean(values)
    assert found is not None
    assert p_value(statement(low=0.1), found) == pytest.approx(stats.ttest_1samp(values, 0.1).pvalue)


def test_holm_by_hand() -> None:
    """0.01, 0.04, 0.03, 0.005 of four: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 not below the one before."""
    found = holm([claim(p) for p in (0.01, 0.04, None, 0.03, 0.005)])
    assert found == (pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06), pytest.approx(0.02))
    assert corrected(claim(0.01), 0.03) == "holds"
    assert corrected(claim(0.04), 0.06) == "open"
    assert corrected(claim(0.005, "does not hold"), 0.02) == "does not hold"
    assert expected_false([claim(0.01), claim(None), claim(0.9)]) == pytest.approx(0.1)
