"""verdict.json is read as it was judged, at the ends of what can be judged: one seed, one example, no difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.comparison import Examples
from lowregret.analysis.regret import judge
from lowregret.runs.atomic import as_record
from lowregret.runs.records import ExampleLosses, ExampleRewards, TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, TrialSpec, build
from lowregret.strict_json import finite
from lowregret.study.decide.looking import _bounds

RATES = (1e-4, 2e-4, 4e-4)
losses = st.sampled_from([0.0, 5e-324, 1e-30, 1.0, math.nextafter(1.0, 2.0), 1.5, 1e6, 1e30])


def judged(
    examples: dict[str, Sequence[tuple[float, ...]]], sides: Sequence[float | None], *, rewarded: bool
) -> Verdict:
    """By method a row of losses a seed at the middle rate; `sides` are the losses below and above, None: diverged."""
    asked: dict[str, Any] = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "methods": tuple(examples)}
    if rewarded:
        asked["objective"] = {"kind": "rl", "task": "builtin:arithmetic"}
    spec = build(CompareSpec, asked)
    records: list[TrialRecord] = []
    found: dict[str, Examples] = {}

    def ended(trial: TrialSpec, loss: float | None) -> None:
        field = {"test_reward" if rewarded else "test_nll": -loss if rewarded and loss is not None else loss}
        status = "diverged" if loss is None else "finished"
        records.append(TrialRecord.of(trial, status=status, steps=10, trainable_parameters=10, **field))

    for method in spec.methods:
        for seed, row in enumerate(examples[method.name]):
            trial = TrialSpec(method=method, learning_rate=RATES[1], seed=seed)
            rewards = ExampleRewards(rewards=tuple(-loss for loss in row), samples=1, tokens=(3,) * len(row))
            found[trial.id] = rewards if rewarded else ExampleLosses(nll_sums=row, tokens=(1,) * len(row))
            ended(trial, math.fsum(row) / len(row))
        for rate, side in zip((RATES[0], RATES[2]), sides, strict=True):
            ended(TrialSpec(method=method, learning_rate=rate), side)
    return judge(spec, records, found, 2.0, {})


def again(verdict: Verdict) -> Verdict:
    """As verdict.json keeps it."""
    return as_record(Verdict, finite(verdict.model_dump(mode="json")), Path("verdict.json"))


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_whatever_was_judged(data: st.DataObject, seeds: int, examples: int, rewarded: bool) -> None:
    row = st.lists(losses, min_size=examples, max_size=examples).map(tuple) | losses.map(lambda one: (one,) * examples)
    rows = {name: data.draw(st.lists(row, min_size=seeds, max_size=seeds)) for name in ("full", "lora:4")}
    found = judged(rows, data.draw(st.tuples(st.none() | losses, st.none() | losses)), rewarded=rewarded)
    assert again(found).model_dump(mode="json") == finite(found.model_dump(mode="json"))


@pytest.mark.parametrize("rewarded", [False, True])
def test_of_an_interval_that_rests_on_the_bowl_alone(rewarded: bool) -> None:
    """One seed, examples of one loss, and a bowl that is none: nothing counts degrees of freedom, and the quantile is
    the normal's."""
    found = judged({"full": [(1.0,) * 8], "lora:4": [(1.0,) * 8]}, (1.1, 1.2), rewarded=rewarded)
    parts = found.interval
    assert parts is not None
    assert (parts.degrees_of_freedom, parts.example_variance, parts.seeds) == (None, 0.0, 1)
    assert parts.rate_variance > 0
    assert found.ci95 is not None
    half = 1.959963984540054 * math.sqrt(parts.rate_variance)
    assert found.ci95 == pytest.approx((-half, half))
    assert again(found) == found
    if not rewarded:
        assert _bounds(found, 0.05) == pytest.approx(found.ci95)
