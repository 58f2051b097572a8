"""Groups, advantages, what is dropped, and the batch that comes of them."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowregret.engine import Completion
from lowregret.tasks import Grade, Problem
from lowregret.train.rl.problems import Prompt
from lowregret.train.rl.rollout import Rollout, Sample, advantages, batches, draw_seed, entropy_bits, measure

REWARDS = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.0, 0.0], [1.0, 0.0, 0.0]]


def rollout(rewards: list[list[float]] = REWARDS) -> Rollout:
    draw = random.Random(0)
    samples = []
    for group in rewards:
        prompt = Prompt(tuple(draw.randrange(2, 64) for _ in range(draw.randint(1, 6))), Problem("?"))
        for _ in group:
            ids = tuple(draw.randrange(2, 64) for _ in range(draw.randint(1, 7)))
            completion = Completion(ids, tuple(-draw.random() for _ in ids), draw.random() < 0.8)
            samples.append(Sample(prompt, completion, "text"))
    grades = [Grade(reward) for group in rewards for reward in group]
    return Rollout(samples, grades, len(rewards[0]))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_are_rewards_less_the_mean_of_the_group(rewards: list[float]) -> None:
    found = advantages(rewards)
    assert math.fsum(found) == pytest.approx(0, abs=1e-9)
    for left, right, ours, other in zip(rewards, rewards[1:], found, found[1:], strict=False):
        assert ours - other == pytest.approx(left - right, abs=1e-9)
    values = torch.tensor(rewards, dtype=torch.float64)
    expected = (values - values.mean()) / (values.std() + 1e-4)
    assert advantages(rewards, divide_by_std=True) == pytest.approx(expected.tolist(), abs=1e-9)


def test_a_batch_holds_each_kept_sample_where_it_belongs() -> None:
    """Every row, read back: its tokens, its advantage and its sampler's log-probabilities, each at its own token."""
    found = rollout()
    (batch,) = batches(found, pad_id=0)
    assert batch is not None
    assert found.dropped == 2
    assert sorted(batch.numbers.tolist()) == [0, 1, 2, 9, 10, 11, 12, 13, 14]
    tokens = sum(len(sample.completion.token_ids) for sample in found.samples)
    expected = [advantage for group in REWARDS for advantage in advantages(group)]
    for row, number in enumerate(batch.numbers.tolist()):
        sample = found.samples[number]
        where = batch.supervised[row]
        assert batch.targets[row][where].tolist() == list(sample.completion.token_ids)
        first = len(sample.prompt.token_ids)
        assert batch.input_ids[row, :first].tolist() == list(sample.prompt.token_ids)
        assert batch.columns["sampler_logprobs"][row][where].tolist() == pytest.approx(sample.completion.logprobs)
        assert batch.columns["advantages"][row][where].tolist() == pytest.approx([expected[number]] * int(where.sum()))
        assert batch.weights[row][where].tolist() == pytest.approx([1 / tokens] * int(where.sum()))
        assert not batch.weights[row][~where].any()


def test_rows_of_a_group_are_said_to_share_its_prompt() -> None:
    found = rollout()
    (batch,) = batches(found, pad_id=0)
    (apart,) = batches(found, pad_id=0, shared=False)
    assert batch is not None
    assert apart is not None
    assert batch.prompts is not None
    assert apart.prompts is None
    assert batch.prompts.tolist() == [number // 3 for number in batch.numbers.tolist()]
    for group in set(batch.prompts.tolist()):
        rows = [row for row, of in enumerate(batch.prompts.tolist()) if of == group]
        start = len(found.samples[3 * group].prompt.token_ids)
        assert len({tuple(batch.input_ids[row, :start].tolist()) for row in rows}) == 1


def test_updates_get_equal_parts_of_the_groups() -> None:
    found = rollout()
    parts = batches(found, pad_id=0, parts=3)
    numbers = [[] if part is None else sorted(number // 3 for number in part.numbers.tolist()) for part in parts]
    assert numbers == [[0, 0, 0], [3, 3, 3], [4, 4, 4]]
    (first, *_) = parts
    assert first is not None
    own = sum(len(sample.completion.token_ids) for sample in found.samples[:6])
    assert float(first.weights.max()) == pytest.approx(1 / own), "groups that are dropped count in their part"


def test_there_is_no_batch_when_all_groups_are_equal() -> None:
    assert batches(rollout([[1.0, 1.0], [0.0, 0.0]]), pad_id=0) == [None]
    assert batches(rollout([[1.0, 0.0]]), pad_id=0, parts=2)[1] is None


def test_what_is_recorded_of_a_step() -> None:
    found = rollout()
    lengths = [len(sample.completion.token_ids) for sample in found.samples]
    metric = measure(found, (0.1, 0.2), None)
    assert metric.reward == pytest.approx(6.5 / 15)
    assert metric.pass_rate == pytest.approx(6 / 15)
    assert metric.length == pytest.approx(sum(lengths) / 15)
    assert (metric.groups, metric.dropped_groups, metric.failures) == (5, 2, 0)
    one_third = -math.log2(1 / 3) / 3 - 2 * math.log2(2 / 3) / 3
    assert metric.bits == pytest.approx(3 * 3 * one_third)
    logprobs = [logprob for sample in found.samples for logprob in sample.completion.logprobs]
    assert metric.entropy == pytest.approx(-sum(logprobs) / len(logprobs))
    assert metric.truncated == sum(not sample.completion.finished for sample in found.samples) / 15
    failed = Rollout(found.samples, [Grade(-1.0, "raised")] * 15, 3)
    assert measure(failed, None, None).failures == 15


def test_bits_of_a_group() -> None:
    assert entropy_bits([1, 0, 1, 0]) == 1
    assert entropy_bits([1, 1, 1]) == 0
    assert entropy_bits([0.1, 0.2, 0.3, 0.4]) == 2


def test_seeds_depend_on_trial_and_step_alone() -> None:
    seeds = {draw_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert draw_seed(3, 4) == draw_seed(3, 4)
    torch.Generator().manual_seed(max(seeds))
