"""How results are written for people."""

from __future__ import annotations

import pytest

from lowregret.analysis.numbers import LOSS, REWARD, nats, percent


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [(0.02294, "0.0229", "+0.0229"), (4.8e-4, "0.00048", "+0.00048"), (0.0, "0.0000", "+0.0000")],
)
def test_small_numbers_keep_two_digits(value: float, plain: str, signed: str) -> None:
    assert (nats(value), nats(value, sign=True)) == (plain, signed)


def test_a_reward_of_nothing_has_no_sign() -> None:
    assert nats(-0.0) == REWARD.score(0.0) == LOSS.score(-0.0) == "0.0000"
    assert nats(-0.0, sign=True) == "+0.0000"


def test_a_small_share_is_not_rounded_to_nothing() -> None:
    assert [percent(share) for share in (0.2, 0.07, 0.125, 0.002)] == ["20%", "7%", "12.5%", "0.2%"]
