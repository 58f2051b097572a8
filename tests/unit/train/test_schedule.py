"""Lengths and learning rates of a run."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.spec import AdamW, DataSpec, TrainingSpec
from lowregret.train.schedule import eval_steps, rate_factor, total_examples, total_steps

SCHEDULES = ["constant", "linear", "cosine", "wsd"]


def training(**fields: object) -> TrainingSpec:
    return TrainingSpec.model_validate({"model": "m", "data": DataSpec(train="d"), **fields})


@pytest.mark.parametrize(
    ("fields", "examples", "visits", "steps"),
    [
        ({"batch_size": 8}, 64, 64, 8),  # one epoch when nothing is said
        ({"batch_size": 8}, 65, 65, 9),  # the last batch is smaller
        ({"batch_size": 8, "epochs": 2.5}, 10, 25, 4),
        ({"batch_size": 8, "epochs": 0.001}, 10, 1, 1),
        ({"batch_size": 8, "steps": 7}, 3, 56, 7),
    ],
)
def test_the_length_of_a_run(fields: dict[str, object], examples: int, visits: int, steps: int) -> None:
    spec = training(**fields)
    assert total_examples(spec, examples) == visits
    assert total_steps(spec, examples) == steps


@given(st.sampled_from(SCHEDULES), st.integers(0, 20), st.integers(1, 60), st.floats(0.05, 1))
def test_every_factor_lies_in_0_1_and_only_warm_up_rises(schedule: str, warmup: int, steps: int, decay: float) -> None:
    wsd = {"decay_fraction": decay} if schedule == "wsd" else {}
    optimizer = AdamW(schedule=schedule, warmup_steps=warmup, **wsd)
    factors = [rate_factor(optimizer, step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors), "a step at rate zero would be wasted"
    for step, (before, after) in enumerate(itertools.pairwise(factors), start=1):
        if step < warmup:
            assert after == pytest.approx((step + 1) / warmup)
        else:
            assert after <= before or step == warmup


def test_shapes_by_hand() -> None:
    def shape(**fields: object) -> list[float]:
        return [rate_factor(AdamW.model_validate(fields), step, 8) for step in range(8)]

    assert shape() == [1.0] * 8
    assert shape(schedule="linear") == pytest.approx([1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert shape(schedule="linear", warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])
    assert shape(schedule="wsd", decay_fraction=0.5) == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    cosine = shape(schedule="cosine")
    assert cosine == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])
    assert cosine[4] == pytest.approx(0.5)


def test_evaluations_lie_a_factor_of_the_root_of_2_apart_and_the_last_is_at_the_end() -> None:
    assert sorted(eval_steps(8, 480)) == [42, 60, 85, 120, 170, 240, 339, 480]
    assert sorted(eval_steps(8, 6)) == [1, 2, 3, 4, 6]
    assert eval_steps(1, 480) == {480}


@given(st.integers(1, 30), st.integers(1, 200))
def test_there_are_as_many_evaluations_as_asked_for_or_as_there_is_room_for(evals: int, steps: int) -> None:
    found = sorted(eval_steps(evals, steps))
    assert found[-1] == steps
    assert found[0] >= 1
    assert len(found) <= evals
    assert len(found) == evals or found[0] == 1


def test_a_list_of_steps_is_taken_as_it_is_and_the_last_step_is_always_one() -> None:
    assert eval_steps((2, 5, 99), 10) == {2, 5, 10}
    assert eval_steps((2, 10), 10) == {2, 10}
