"""Thinned curves: the same in whatever parts their lines come, and what cannot be read is left out."""

from __future__ import annotations

from benchmarks.watch import line
from hypothesis import given
from hypothesis import strategies as st

from lowregret.watch.curve import MOST, Curve, Thinned, steps


@given(count=st.integers(0, 5 * MOST))
def test_of_any_number_of_points_every_nth_is_kept_from_the_first_on(count: int) -> None:
    kept = Thinned()
    for number in range(count):
        if kept.takes():
            kept.points.append((number, 0.0))
    places = [number for number, _ in kept.points]
    assert len(places) <= MOST
    assert len(places) >= min(count, MOST // 2)
    if len(places) > 1:
        stride = places[1]
        assert stride & (stride - 1) == 0
        assert places == list(range(0, count, stride))


def test_what_a_reader_is_told_ends_where_the_curve_does() -> None:
    curve, told = Curve(), []
    for step in steps([line(number) for number in range(1, 1000)]):
        told += curve.add(step)[0]
    assert curve.last is not None
    assert curve.last.step == 999
    assert set(curve.train.points) <= set(told)
    assert len(curve.held.points) <= MOST


def test_damaged_lines_are_left_out_and_the_others_are_not() -> None:
    good = line(1).rstrip(b"\n")
    odd = [
        b"{", b"\0\0\0", b"[]", b'{"step": 1}', b'{"step": true, "tokens": 1, "seconds": 1}', b"[" * 100_000,
        b'{"step": 2, "tokens": 1, "seconds": NaN}', b'{"step": 1e9, "tokens": 1, "seconds": 1}',
        b'{"step": 99999999999, "tokens": 1, "seconds": 1}', b'{"step": 3, "tokens": 1, "seconds": 1}, {"step": 4}',
    ]  # fmt: skip
    for bad in odd:
        assert [found.step for found in steps([good, bad, line(5).rstrip(b"\n")])] == [1, 5], bad[:60]


def test_of_rewards_the_reward_is_what_is_shown() -> None:
    text = b'{"step": 3, "tokens": 9, "seconds": 1.5, "train_nll": 1.0, "test_reward": 0.5, "rl": {"reward": 0.25}}'
    (found,) = steps([text])
    assert (found.trained, found.held, found.rewarded) == (0.25, 0.5, True)
