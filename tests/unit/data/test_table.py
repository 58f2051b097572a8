"""A table gives back what was put in, cut where it is asked to be, and counts without making examples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.data.example import Example
from lowregret.data.table import Examples, ExampleTable, record_batch, select, supervised_counts, token_counts

EXAMPLE = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20).map(
    lambda tokens: Example(tuple(token for token, _ in tokens), tuple(counted for _, counted in tokens))
)
BATCHES = st.lists(st.lists(EXAMPLE, max_size=5), min_size=1, max_size=4)


def cut(example: Example, limit: int) -> Example:
    return Example(example.token_ids[:limit], example.supervised[:limit])


def table_of(batches: list[list[Example]]) -> ExampleTable:
    return ExampleTable([record_batch([(7, example) for example in batch]) for batch in batches])


def all_of(table: ExampleTable, limit: int) -> Examples:
    return Examples(table, np.arange(len(table)), limit)


@given(BATCHES, st.integers(1, 25))
def test_examples_come_back_cut_one_by_one_and_together(batches: list[list[Example]], limit: int) -> None:
    whole = [example for batch in batches for example in batch]
    found = all_of(table_of(batches), limit)
    expected = [cut(example, limit) for example in whole]
    assert list(found) == expected
    assert [found[index] for index in range(len(found))] == expected
    assert found == tuple(expected)
    assert token_counts(found).tolist() == [len(example.token_ids) for example in expected]
    assert supervised_counts(found).tolist() == [example.supervised_tokens for example in expected]
    assert list(found[1::2]) == expected[1::2]


@given(BATCHES, st.randoms(use_true_random=False), st.integers(1, 25))
def test_rows_may_be_taken_in_any_order(batches: list[list[Example]], draw: st.DataObject, limit: int) -> None:
    table = table_of(batches)
    positions = list(range(len(table)))
    draw.shuffle(positions)  # type: ignore[attr-defined]
    mine = all_of(table, limit)
    assert list(select(mine, positions)) == list(select(tuple(mine), positions))


@given(BATCHES, BATCHES, st.integers(1, 8))
def test_examples_are_alike_when_their_tokens_are_after_the_cut(
    left: list[list[Example]], right: list[list[Example]], limit: int
) -> None:
    mine, others = all_of(table_of(left), limit), all_of(table_of(right), limit)
    tokens = {example.token_ids for example in others}
    assert mine.repeats(others).tolist() == [example.token_ids in tokens for example in mine]


def test_an_example_ends_where_the_next_begins_and_is_out_of_reach_beyond() -> None:
    found = all_of(table_of([[Example((1, 2), (False, True))], [Example((3,), (True,))]]), 10)
    assert (found[-1], found[0]) == (Example((3,), (True,)), Example((1, 2), (False, True)))
    with pytest.raises(IndexError):
        found[2]


def test_columns_are_what_other_programs_read() -> None:
    batch = record_batch([(4, Example((1, 2), (False, True))), (9, Example((3,), (True,)))])
    batch.validate(full=True)
    rows = pa.Table.from_batches([batch]).select(["line", "token_ids", "supervised"]).to_pylist()
    assert rows == [
        {"line": 4, "token_ids": [1, 2], "supervised": [False, True]},
        {"line": 9, "token_ids": [3], "supervised": [True]},
    ]
