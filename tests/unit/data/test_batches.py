"""Order, padding and weights: what a step trains on, and how much each token counts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowregret.data.batches import SHARED_LEAST, Batch, batch_indices, collate, eval_groups, passes, training_order
from lowregret.data.example import Example


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Any length from two tokens, any mask that supervises something; ids from 1, so that padding is recognised."""
    mask = draw(st.lists(st.booleans(), min_size=1, max_size=9).filter(any))
    ids = draw(st.lists(st.integers(1, 99), min_size=len(mask) + 1, max_size=len(mask) + 1))
    return Example(tuple(ids), (False, *mask))


BATCHES = st.lists(examples(), min_size=1, max_size=8)


def predictions(batch: Batch) -> list[list[tuple[tuple[int, ...], int, float]]]:
    """By row: (tokens seen, token to predict, weight) of every supervised position."""
    return [
        [
            (tuple(batch.input_ids[row, : at + 1].tolist()), int(batch.targets[row, at]), float(batch.weights[row, at]))
            for at in batch.supervised[row].nonzero()[:, 0].tolist()
        ]
        for row in range(batch.rows)
    ]


@given(BATCHES)
def test_supervised_positions_predict_the_supervised_tokens_from_all_before_them(found: list[Example]) -> None:
    batch = collate(found)
    total = sum(example.supervised_tokens for example in found)
    for example, row in zip(found, predictions(batch), strict=True):
        ids = example.token_ids
        expected = [(ids[:i], ids[i]) for i in range(1, len(ids)) if example.supervised[i]]
        assert [(seen, target) for seen, target, _ in row] == expected
        assert all(weight == pytest.approx(1 / total) for *_, weight in row)


@given(BATCHES, st.integers(0, 200))
def test_weights_sum_to_one_and_are_zero_elsewhere(found: list[Example], pad_id: int) -> None:
    batch = collate(found, pad_id)
    assert float(batch.weights.double().sum()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(batch.weights != 0, batch.supervised)
    for row, example in enumerate(found):
        assert bool((batch.input_ids[row, len(example.token_ids) - 1 :] == pad_id).all())


Grouped = list[tuple[int, Example]]
"""Rows, each with the number of its prompt."""


@st.composite
def groups(draw: st.DrawFn) -> Grouped:
    """Rows of some prompts in any order, with completions of any length; some rows have a prompt of their own."""
    rows: Grouped = []
    for prompt in range(draw(st.integers(1, 4))):
        start = tuple(draw(st.lists(st.integers(1, 99), min_size=1, max_size=SHARED_LEAST + 6)))
        for _ in range(draw(st.integers(1, 5))):
            end = tuple(draw(st.lists(st.integers(1, 99), min_size=1, max_size=6)))
            rows.append((prompt, Example((*start, *end), (False,) * len(start) + (True,) * len(end))))
    return list(draw(st.permutations(rows)))


def grouped(rows: Grouped) -> Batch:
    return replace(collate([row for _, row in rows]), prompts=torch.tensor([prompt for prompt, _ in rows]))


@given(groups())
def test_a_pass_costs_each_shared_prompt_once(rows: Grouped) -> None:
    batch = grouped(rows)
    numbers = [number for number, _ in rows]
    computed = set()
    for row, (number, used) in enumerate(zip(numbers, batch.used.tolist(), strict=True)):
        first = int(batch.supervised[row].nonzero()[0])
        shared = first if numbers.count(number) > 1 and first >= SHARED_LEAST else 0
        assert int(batch.shared[row]) == shared
        assert int(batch.leaders[row]) == (numbers.index(number) if shared else row)
        computed |= {(number, at) if at < shared else (number, row, at) for at in range(used)}
    assert batch.tokens == len(computed)


def test_what_one_row_is_supervised_on_is_not_shared() -> None:
    long = tuple(range(1, 21))
    early = Example(long, (False,) * 9 + (True,) + (False,) * 9 + (True,))
    late = Example(long, (False,) * 19 + (True,))
    pack = replace(collate([late, early, late]), prompts=torch.tensor([4, 4, 4]))
    assert pack.shared.tolist() == [8, 8, 8]
    assert pack.tokens == 8 + 3 * 11
    assert pack.select([0, 2]).tokens == 18 + 2
    assert replace(pack, supervised=torch.zeros_like(pack.supervised)).tokens == 3


@given(st.lists(groups(), min_size=1, max_size=3), st.integers(1, 60), st.none() | st.integers(1, 9))
def test_passes_over_shared_prompts_keep_to_their_limits_and_to_rows(
    found: list[Grouped], max_tokens: int, max_rows: int | None
) -> None:
    pack = {f"policy {index}": grouped(rows) for index, rows in enumerate(found)}
    cut = passes(pack, max_tokens, max_rows)
    for group in cut:
        rows = sum(part.rows for part in group.values())
        assert rows == 1 or sum(part.tokens for part in group.values()) <= max_tokens
        assert max_rows is None or all(part.rows <= max_rows for part in group.values())
    for name, batch in pack.items():
        parts = [group[name] for group in cut if name in group]
        assert sorted(row for part in parts for row in predictions(part)) == sorted(predictions(batch))
        numbers = {int(row): int(of) for part in parts for row, of in zip(part.numbers, part.prompts, strict=True)}
        assert numbers == dict(zip(batch.numbers.tolist(), batch.prompts.tolist(), strict=True))
    if max_rows is None:
        apart = passes({name: replace(batch, prompts=None) for name, batch in pack.items()}, max_tokens)
        assert len(cut) <= len(apart)


def test_rows_of_a_prompt_stay_together_when_a_step_is_cut() -> None:
    """Two prompts of four rows each, mixed: a pass for each, of 10 + 4 · 3 tokens."""
    rows = [Example((*([prompt] * 11), 5, 6, 7), (False,) * 11 + (True,) * 3) for prompt in (1, 2)]
    batch = replace(collate(rows * 4), prompts=torch.tensor([1, 2] * 4))
    cut = passes({"a": batch}, 24)
    assert [part["a"].prompts.tolist() for part in cut] == [[1] * 4, [2] * 4]
    assert [part["a"].tokens for part in cut] == [22, 22]


PACKS = st.lists(BATCHES, min_size=1, max_size=4)
BUDGETS = st.none() | st.integers(1, 60)


def collated(found: list[list[Example]]) -> dict[str, Batch]:
    return {f"policy {index}": collate(part) for index, part in enumerate(found)}


@given(BATCHES)
def test_what_follows_the_last_supervised_position_costs_nothing(found: list[Example]) -> None:
    batch = collate(found)
    expected = [max(i for i, counts in enumerate(example.supervised) if counts) for example in found]
    assert batch.used.tolist() == expected
    assert batch.used.dtype == torch.int64
    assert batch.tokens == sum(expected)


def test_a_row_without_supervision_still_has_a_position() -> None:
    batch = collate([Example((5, 6), (False, False)), Example((8, 9, 4), (False, False, True))])
    assert batch.used.tolist() == [1, 2]
    assert passes({"a": batch}, 1)[1]["a"].used.tolist() == [1]


@given(PACKS, BUDGETS, st.none() | st.integers(1, 9))
def test_every_row_is_in_one_pass_with_its_weights(
    found: list[list[Example]], max_tokens: int | None, max_rows: int | None
) -> None:
    pack = collated(found)
    cut = passes(pack, max_tokens, max_rows)
    for name, batch in pack.items():
        dealt = [row for group in cut if name in group for row in predictions(group[name])]
        assert sorted(dealt) == sorted(predictions(batch))
    assert all(part.input_ids.shape[1] == part.used.max() for group in cut for part in group.values()) or cut == [pack]
    total = sum(float(part.weights.double().sum()) for group in cut for part in group.values())
    assert total == pytest.approx(len(pack), abs=1e-5)
    assert all(group for group in cut), "an empty pass"


@given(PACKS, st.integers(1, 60), st.none() | st.integers(1, 9))
def test_a_pass_keeps_to_its_limits(found: list[list[Example]], max_tokens: int, max_rows: int | None) -> None:
    for group in passes(collated(found), max_tokens, max_rows):
        rows = sum(part.rows for part in group.values())
        assert rows == 1 or sum(part.tokens for part in group.values()) <= max_tokens
        assert max_rows is None or all(part.rows <= max_rows for part in group.values())


@given(PACKS, st.integers(1, 60))
def test_passes_are_few_and_about_equal(found: list[list[Example]], max_tokens: int) -> None:
    """No two neighbours would fit into one; and all but the last are within one row of the largest."""
    pack = collated(found)
    sizes = [sum(part.tokens for part in group.values()) for group in passes(pack, max_tokens)]
    assert all(one + other > max_tokens for one, other in itertools.pairwise(sizes))
    longest = max(int(batch.used.max()) for batch in pack.values())
    assert max(sizes[:-1], default=0) - min(sizes[:-1], default=0) < 2 * longest


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 100))
def test_rows_of_one_length_are_dealt_out_evenly(rows: int, length: int, max_tokens: int) -> None:
    batch = collate([Example((2,) * (length + 1), (False,) + (True,) * length)] * rows)
    found = [group["a"].rows for group in passes({"a": batch}, max_tokens)]
    assert len(found) == math.ceil(rows / max(max_tokens // length, 1))
    assert max(found) == math.ceil(rows / len(found))


@given(PACKS, BUDGETS)
def test_passes_go_policy_by_policy_the_longest_row_first_and_repeat(
    found: list[list[Example]], max_tokens: int | None
) -> None:
    pack = collated(found)
    cut = passes(pack, max_tokens)
    names = [name for group in cut for name in group]
    assert [name for name, _ in itertools.groupby(names)] == list(pack)
    if len(cut) > 1:
        for name in pack:
            used = [length for group in cut if name in group for length in group[name].used.tolist()]
            assert used == sorted(used, reverse=True)
    again = passes(pack, max_tokens)
    assert [list(group) for group in again] == [list(group) for group in cut]
    for group, same in zip(cut, again, strict=True):
        assert all(torch.equal(group[name].input_ids, same[name].input_ids) for name in group)


def test_a_step_that_fits_is_passed_as_it_is() -> None:
    pack = {name: collate([Example((5, 6, 7), (False, False, True))]) for name in "ab"}
    for limit in (None, 4):
        assert passes(pack, limit) == [pack]
    assert [list(group) for group in passes(pack, 3)] == [["a"], ["b"]]


def test_a_limit_on_rows_holds_for_each_policy() -> None:
    """Nine rows of which at most four: three times three, beside two of the other policy."""
    example = Example((5, 6, 7), (False, False, True))
    pack = {"a": collate([example] * 9), "b": collate([example] * 2)}
    rows = [{name: part.rows for name, part in group.items()} for group in passes(pack, max_rows=4)]
    assert rows == [{"a": 3, "b": 2}, {"a": 3}, {"a": 3}]


def test_by_hand() -> None:
    batch = collate([Example((5, 6, 7), (False, False, True)), Example((8, 9), (False, True))], pad_id=3)
    assert batch.input_ids.tolist() == [[5, 6], [8, 3]]
    assert batch.targets.tolist() == [[6, 7], [9, 3]]
    assert batch.supervised.tolist() == [[False, True], [True, False]]
    assert batch.weights.tolist() == [[0, 0.5], [0.5, 0]]
    assert (batch.input_ids.dtype, batch.weights.dtype) == (torch.int64, torch.float32)


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 3), st.integers(1, 30))
def test_steps_are_windows_on_a_chain_of_permutations(examples: int, batch_size: int, seed: int, steps: int) -> None:
    chain = [i for step in range(steps) for i in batch_indices(examples, batch_size, seed, step)]
    assert len(chain) == steps * batch_size, "a step without `last` is always full"
    for epoch, start in enumerate(range(0, len(chain), examples)):
        part = chain[start : start + examples]
        order = training_order(examples, seed, epoch).tolist()
        assert part == order[: len(part)]
        if len(part) == examples:
            assert sorted(part) == list(range(examples)), "every epoch visits each example once"


@given(st.integers(1, 40), st.integers(1, 17), st.floats(0.1, 4))
def test_last_ends_the_chain(examples: int, batch_size: int, epochs: float) -> None:
    visits = max(1, round(examples * epochs))
    steps = math.ceil(visits / batch_size)
    parts = [batch_indices(examples, batch_size, 0, step, visits) for step in range(steps)]
    assert [len(part) for part in parts[:-1]] == [batch_size] * (steps - 1)
    assert sum(map(len, parts)) == visits
    counts = Counter(i for part in parts for i in part)
    assert max(counts.values()) - min(counts.get(i, 0) for i in range(examples)) <= 1
    whole = [i for step in range(steps) for i in batch_indices(examples, batch_size, 0, step)]
    assert [i for part in parts for i in part] == whole[:visits]
    assert batch_indices(examples, batch_size, 0, steps, visits) == []


def test_a_seed_and_an_epoch_decide_the_order() -> None:
    orders = {(seed, epoch): tuple(training_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    training_order.cache_clear()
    assert tuple(training_order(50, 1, 2).tolist()) == orders[1, 2]


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_groups_share_out_all_examples_within_the_budget(lengths: list[int], tokens: int) -> None:
    groups = eval_groups(lengths, tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= tokens
    in_order = [lengths[index] for group in groups for index in group]
    assert in_order == sorted(in_order), "neighbours of like length need little padding"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_no_group_could_take_the_first_of_the_next(lengths: list[int], tokens: int) -> None:
    groups = eval_groups(lengths, tokens)
    for group, following in itertools.pairwise(groups):
        assert (len(group) + 1) * lengths[following[0]] > tokens
