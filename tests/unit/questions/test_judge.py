"""The rule, and what the means leave out."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.fits import Estimate
from lowregret.questions.claim import Statement
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import judge_study, rule
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
