"""How long a job still takes, by the plan at the pace of its first steps."""

from __future__ import annotations

import pytest

from lowregret.plan.price import JUDGING, TRAINING, MethodPrice, Price
from lowregret.progress.pace import Pace, Part
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.standing import GroupStanding
from lowregret.spec import LoRA, TrialSpec

LORA = MethodPrice("lora:16", 4, 4.0, 100, (50, 100), ((TRAINING, 10.0), (JUDGING, 10.0)))
FULL = MethodPrice("full", 2, 2.0, 100, (50, 100), ((TRAINING, 20.0), (JUDGING, 10.0)))
PRICE = Price((LORA, FULL), "a machine")


def at(step: int, seconds: float) -> Metric:
    return Metric(step=step, tokens=step, seconds=seconds)


def test_before_enough_is_trained_the_pace_is_not_known() -> None:
    pace = Pace(PRICE)
    assert pace.left([]) is None
    assert pace.left([Part("lora:16", at(1, 5.0), at(3, 5.4), True)]) is None, "a first step says nothing"
    assert pace.left([Part("lora:16", at(1, 5.0), at(40, 15.0), True)]) is None, "nothing was evaluated yet"


def test_what_is_left_goes_at_the_pace_of_what_was() -> None:
    """Twice as slow as planned: 4 · 20 + 2 · 30 planned, of which 10 + 5.1 are done."""
    part = Part("lora:16", at(1, 1.0), at(51, 1.0 + 2 * 10.0), True)
    left = Pace(PRICE).left([part])
    assert left == pytest.approx(2 * (140 - 5.1 - 5), rel=1e-6)


def test_a_method_that_was_trained_goes_at_its_own_pace() -> None:
    lora = [Part("lora:16", at(1, 0.0), at(100, 19.9), False)] * 4
    full = Part("full", at(1, 0.0), at(51, 45.0), True)
    assert Pace(PRICE).left([*lora, full]) == pytest.approx(3 * (60 - 15.2), rel=1e-2)


def test_more_trials_than_were_thought_still_take_their_time() -> None:
    over = [Part("lora:16", at(1, 0.0), at(100, 19.9), False)] * 5
    last = Part("lora:16", at(1, 0.0), at(50, 9.9), True)
    left = Pace(Price((LORA,), "a machine")).left([*over, last])
    assert left == pytest.approx(10.0, rel=1e-2)


def test_groups_that_others_train_and_one_that_is_over() -> None:
    price = Price(
        tuple(MethodPrice("lora:16", 2, 2.0, 100, (), ((TRAINING, 100.0),), group=key) for key in "ab"), "", at_once=2
    )
    trial = TrialSpec(method=LoRA(rank=16), learning_rate=1e-3, seed=0)

    def standing(key: str, step: int, seconds: float) -> GroupStanding:
        record = TrialRecord.of(trial, status="running")
        return GroupStanding("main.lora", 100, 2, (record,), {record.id: at(step, seconds)}, label=key)

    pace = Pace(price)
    parts = pace.groups([standing("a", 50, 100.0), standing("b", 50, 100.0)])
    assert pace.left(parts) == pytest.approx(2 * 300 / 2)
    parts = pace.groups([standing("b", 50, 100.0)])
    assert pace.left(parts) == pytest.approx(2 * 150 / 2)


def test_groups_that_are_trained_here_one_after_another() -> None:
    """A trial of the second group is as long as four of the first: its pace and what is left of it are its own."""
    price = Price(
        (
            MethodPrice("lora:16", 2, 2.0, 100, (), ((TRAINING, 100.0),), group="batch-2.lora"),
            MethodPrice("lora:16", 2, 2.0, 100, (), ((TRAINING, 400.0),), group="batch-8.lora"),
        ),
        "",
    )
    pace = Pace(price)
    pace.begin("batch-2.lora")
    first = [Part("lora:16", at(0, 0.0), at(100, 200.0), False, "batch-2.lora")]  # twice the plan's time; one sufficed
    assert pace.left(first) == pytest.approx(2 * (100 + 800))
    pace.begin("batch-8.lora")
    assert pace.left(first) == pytest.approx(2 * 800)
    second = Part("lora:16", at(0, 0.0), at(50, 400.0), True, "batch-8.lora")
    assert pace.left([*first, second]) == pytest.approx(2 * 600)
    pace.begin("batch-2.lora")  # for another seed
    assert pace.left([*first, second]) == pytest.approx(2 * 100)
