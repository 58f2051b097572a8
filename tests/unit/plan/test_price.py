"""What a price says before the first trial."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowregret.plan.price import ASKED_SECONDS, JUDGING, SAMPLING, TRAINING, MethodPrice, Price

LORA = MethodPrice("lora:16", 8, 7.5, 100, (25, 50, 100), ((TRAINING, 10.0), (JUDGING, 30.0)))
FULL = MethodPrice("full", 8, 7.5, 100, (25, 50, 100), ((TRAINING, 20.0), (JUDGING, 30.0)))
BOTH = Price(
    (LORA, FULL), "a machine", 2 * 10**9, 16 * 10**9, 5 * 10**8, 10**12, remedies=((JUDGING, "try --max-eval 9"),)
)


def test_it_says_trials_time_memory_disk_and_what_dominates() -> None:
    assert BOTH.seconds == 7.5 * 90
    assert BOTH.lines() == [
        "price: about 16 trials, 11 min on a machine, 2 GB of memory, up to 500 MB of disk",
        "price: held-out evaluation is 67 % of it: try --max-eval 9",
    ]


def test_money_where_a_price_is_known_and_less_time_side_by_side() -> None:
    paid = replace(BOTH, dollars_per_hour=4.0, at_once=2)
    assert paid.seconds == 7.5 * 45
    assert "5.6 min ($0.38) on a machine" in paid.lines()[0]


def test_what_cannot_be_counted_is_said_to_be_timed() -> None:
    unknown = Price((replace(LORA, parts=()), FULL), "")
    assert unknown.seconds is None
    assert not unknown.asks
    assert unknown.lines()[0] == "price: about 16 trials, time known once the first steps are timed"


def test_sampling_is_an_upper_bound() -> None:
    sampled = replace(LORA, parts=((TRAINING, 1.0), (SAMPLING, 30.0)))
    lines = Price((sampled,), "a machine").lines()
    assert lines[0].startswith("price: about 8 trials, up to 3.9 min on a machine")
    assert lines[1] == "price: sampling is 97 % of it"


def test_too_little_memory_and_disk_are_told_before_anything_is_trained() -> None:
    lines = replace(BOTH, has_bytes=10**9, free_bytes=10**8).lines()
    assert any("2 GB are needed, and the device has 1 GB" in line for line in lines)
    assert any("up to 500 MB are written, and 100 MB are free" in line for line in lines)


def test_nothing_to_train_is_nothing_to_say() -> None:
    assert Price((replace(LORA, trials=0, full_trials=0.0),), "a machine").lines() == []


@pytest.mark.parametrize(("hours", "asks"), [(0.9, False), (1.1, True)])
def test_more_than_an_hour_is_asked_about(hours: float, asks: bool) -> None:
    long = replace(LORA, trials=1, full_trials=1.0, parts=((TRAINING, hours * ASKED_SECONDS),))
    assert Price((long,), "a machine").asks is asks


def test_evaluations_are_counted_where_they_are() -> None:
    assert LORA.until(24) == pytest.approx(2.4)
    assert LORA.until(25) == pytest.approx(2.5 + 10)
    assert LORA.until(100) == pytest.approx(40)
    assert replace(LORA, parts=()).until(7) == 7
