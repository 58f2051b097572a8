"""Lengths, cuts and lists of problems."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lowregret.data.facts import PROBLEMS_SHOWN, ExampleLength, choose_max_length, list_problems


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(2, 5000))
def test_a_cut_takes_supervised_tokens_first(prompt: int, supervised: int, limit: int) -> None:
    kept = ExampleLength(prompt + supervised, supervised).cut(limit)
    assert kept.tokens == min(prompt + supervised, limit)
    assert kept.supervised == max(0, min(supervised, limit - prompt))


def test_the_length_is_the_trainers_default_while_it_does() -> None:
    assert choose_max_length([ExampleLength(500, 10)] * 10, None) == 512
    assert choose_max_length([], None) == 512


def test_one_long_example_in_a_hundred_does_not_double_the_length() -> None:
    lengths = [ExampleLength(100, 10)] * 99 + [ExampleLength(3000, 10)]
    assert choose_max_length(lengths, None) == 512
    assert choose_max_length([*lengths[:49], lengths[-1]], None) == 4096


@given(st.lists(st.integers(1, 10**6)), st.integers(1, 10**6))
def test_no_length_is_over_the_context(lengths: list[int], context: int) -> None:
    assert choose_max_length([ExampleLength(tokens, 1) for tokens in lengths], context) <= context


def test_problems_are_listed_and_the_rest_counted() -> None:
    faults = [(f"rows.jsonl:{line}", "broken JSON") for line in range(1, 12)]
    listed = list_problems(faults)
    assert listed[0] == "rows.jsonl:1: broken JSON"
    assert len(listed) == PROBLEMS_SHOWN + 1
    assert listed[-1] == "and 3 more, up to rows.jsonl:11"
    assert list_problems([]) == ()
