"""Bits of the data against bits of the adapter."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.edl import HeldOutPoint, excess_description_length
from lowregret.errors import SpecError
from lowregret.plan.advice.capacity import (
    FinishedRun,
    Information,
    binary_entropy,
    group_bits,
    of_finished_run,
    rank_for,
    rl_information,
    sft_information,
)
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.lookup import find_model


def test_a_token_is_a_bit_unless_the_loss_was_measured() -> None:
    assert sft_information(1_000_000).bits == 1_000_000
    measured = sft_information(1_000_000, bits_per_token=0.5)
    assert (measured.bits, measured.measured) == (500_000, True)


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (1, 0), (0.5, 1), (0.25, 0.8112781244591328)])
def test_binary_entropy(share: float, expected: float) -> None:
    assert binary_entropy(share) == pytest.approx(expected, abs=1e-15)


def test_a_pass_rate_is_a_share() -> None:
    with pytest.raises(SpecError, match="from 0 to 1"):
        binary_entropy(1.5)


@given(st.integers(1, 9), st.floats(0, 1))
def test_group_bits_is_the_entropy_of_all_outcomes_with_the_silent_ones_joined(size: int, rate: float) -> None:
    """Enumerated: every vector of rewards; all right and all wrong both give no gradient, so they count as one."""
    chances: dict[tuple[int, ...], float] = {}
    for rewards in itertools.product((0, 1), repeat=size):
        chance = math.prod(rate if reward else 1 - rate for reward in rewards)
        outcome = (0,) * size if len(set(rewards)) == 1 else rewards
        chances[outcome] = chances.get(outcome, 0.0) + chance
    expected = -sum(p * math.log2(p) for p in chances.values() if p > 0)
    found, informative = group_bits(size, rate)
    assert found == pytest.approx(expected, abs=1e-9)
    assert informative == pytest.approx(1 - chances[(0,) * size], abs=1e-9)


@given(st.integers(1, 200), st.floats(0, 1))
def test_an_episode_teaches_at_most_the_entropy_of_its_reward(size: int, rate: float) -> None:
    found, _ = group_bits(size, rate)
    assert -1e-9 <= found <= size * binary_entropy(rate) + 1e-9


def test_the_posts_example_of_math() -> None:
    """~10,000 problems × 32 samples: 320,000 bits at most (SCIENCE 3.8), and a rank-1 adapter holds them."""
    found = rl_information(10_000 * 32, 32, 0.5)
    assert found.bits == pytest.approx(320_000, rel=1e-6)
    assert rank_for(find_model("Llama-3.1-8B"), found.bits, 0.7) == 1


@pytest.mark.parametrize(("size", "rate"), [(1, 0.5), (8, 0.0), (8, 1.0)])
def test_groups_with_equal_rewards_teach_nothing(size: int, rate: float) -> None:
    assert rl_information(1000, size, rate).bits == 0


@given(st.floats(1, 1e12))
def test_rank_for_is_the_least_power_of_two_that_holds_the_bits(bits: float) -> None:
    shapes = find_model("tiny")
    rank = rank_for(shapes, bits, 2.0)
    if rank is None:
        assert 2 * sum(lora_parameters(shapes, 65536).values()) < bits
        return
    assert 2 * sum(lora_parameters(shapes, rank).values()) >= bits
    assert rank == 1 or 2 * sum(lora_parameters(shapes, rank // 2).values()) < bits


def test_a_pilot_replaces_the_raw_loss_and_picks_the_figure() -> None:
    evaluations = [HeldOutPoint(share, 1.0) for share in (0.5, 0.625, 0.75, 0.875, 1.0)]
    elicits = excess_description_length([3.0, *[1.0] * 99], evaluations, 1.0)
    information = of_finished_run(1_000_000, FinishedRun(elicits, "pilot"))
    assert information.to_hold == pytest.approx(1_000_000 * 0.02 / math.log(2))
    assert information.to_hold < information.bits
    assert (information.unit, information.regime, information.regime_note) == ("edl", "elicit", "")


def test_facts_that_are_known_are_what_is_to_hold_and_are_taught() -> None:
    unknown = excess_description_length([3.0, *[1.0] * 99], [HeldOutPoint(0.5, 1.0), HeldOutPoint(1.0, 1.0)], 1.0)
    piloted = of_finished_run(5000, FinishedRun(unknown, "pilot"))
    assert (piloted.unit, piloted.regime) == ("edl", "unknown")
    assert "2 evaluations" in piloted.regime_note
    for information in (sft_information(5000), piloted):
        assert information.with_facts(None) is information
        told = information.with_facts(800.0)
        assert (told.unit, told.regime, told.regime_note, told.to_hold) == ("facts", "teach", "", 800.0)


@pytest.mark.parametrize(
    ("information", "unit"),
    [
        (sft_information(5000), "tokens"),
        (sft_information(5000, bits_per_token=2.5), "loss"),
        (rl_information(100, 8, 0.5), "rewards"),
    ],
)
def test_bits_say_what_they_are_bits_of(information: Information, unit: str) -> None:
    assert information.unit == unit
