"""The interval against textbook cases, a bootstrap, and its own promise of 95 %."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from lowregret.analysis.stats import Interval, paired_difference


def effects(
    rng: np.random.Generator, seeds: int, examples: int, by_example: float, by_seed: float, both: float
) -> np.ndarray:
    """Two-way random effects around 0, shape [seeds, examples]."""
    return (
        by_example * rng.normal(size=(1, examples))
        + by_seed * rng.normal(size=(seeds, 1))
        + both * rng.normal(size=(seeds, examples))
    )


def difference_of(values: np.ndarray, tokens: np.ndarray) -> Interval:
    return paired_difference(values + 1.0, np.ones_like(values), tokens)


def test_one_seed_and_equal_tokens_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 1, 30))
    found = paired_difference(first, second, np.full(30, 7))
    expected = oracle.ttest_rel(first[0] / 7, second[0] / 7).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.degrees_of_freedom == pytest.approx(29)
    assert not found.covers_seeds
    assert found.covers_examples


def test_one_example_is_the_t_interval_over_seeds() -> None:
    values = np.array([[1.0], [2.0], [4.0]])
    found = paired_difference(values, np.zeros((3, 1)), np.array([2]))
    expected = oracle.ttest_1samp(values[:, 0] / 2, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.covers_seeds
    assert not found.covers_examples


def test_one_example_and_one_seed_say_nothing() -> None:
    found = paired_difference(np.array([[3.0]]), np.array([[1.0]]), np.array([4]))
    assert (found.value, found.low, found.high) == (0.5, -math.inf, math.inf)


def test_without_any_variance_the_interval_is_a_point() -> None:
    tokens = np.array([1, 2, 5])
    found = paired_difference(np.tile(0.25 * tokens, (3, 1)), np.zeros((3, 3)), tokens)
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    assert found.example_share == found.seed_share == 0.0


@pytest.mark.parametrize(
    ("by_example", "by_seed", "both", "least"),
    [
        (1.0, 0.0, 0.0, 0.92),
        (1.0, 0.12, 0.5, 0.92),
        (0.0, 0.0, 1.0, 0.92),
        (0.0, 1.0, 0.0, 0.92),
        # Satterthwaite's worst mixture, as the docstring admits: 0.917 in 20,000 simulations.
        (1.0, 0.685, 0.0, 0.89),
    ],
)
def test_95_percent_of_intervals_hold_the_truth(by_example: float, by_seed: float, both: float, least: float) -> None:
    rng, runs, truth = np.random.default_rng(1), 400, 0.3
    tokens = np.full(64, 5)
    found = [difference_of(5 * (truth + effects(rng, 3, 64, by_example, by_seed, both)), tokens) for _ in range(runs)]
    coverage = sum(each.low <= truth <= each.high for each in found) / runs
    assert least <= coverage <= 1.0


def test_coverage_with_unequal_tokens_and_losses_that_grow_with_them() -> None:
    rng, runs, truth = np.random.default_rng(2), 400, 0.3
    hits = 0
    for _ in range(runs):
        tokens = rng.integers(5, 60, size=64)
        found = difference_of((truth + effects(rng, 3, 64, 0.2, 0.02, 0.2)) * tokens, tokens)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / runs <= 1.0


def test_the_variance_agrees_with_the_pigeonhole_bootstrap() -> None:
    """Resampling seeds and examples, both with replacement (Owen 2007), counts the interaction more than once too."""
    rng = np.random.default_rng(3)
    seeds, examples, draws = 12, 80, 4000
    tokens = rng.integers(5, 60, size=examples)
    values = effects(rng, seeds, examples, 0.5, 0.05, 0.1) * tokens
    found = paired_difference(values, np.zeros_like(values), tokens)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    columns = rng.multinomial(examples, np.full(examples, 1 / examples), size=draws)
    resampled = np.einsum("ds,se,de->d", rows, values, columns) / (seeds * columns @ tokens)
    assert found.example_variance + found.seed_variance == pytest.approx(resampled.var(), rel=0.15)


def test_examples_weigh_by_their_tokens() -> None:
    found = paired_difference(np.array([[10.0, 90.0]]), np.array([[0.0, 0.0]]), np.array([10, 30]))
    assert found.value == pytest.approx(100 / 40)


@given(
    seeds=st.integers(1, 4),
    examples=st.integers(1, 6),
    scale=st.floats(1e-6, 1e3),
    key=st.integers(0, 2**32 - 1),
)
def test_swapping_mirrors_and_scaling_scales(seeds: int, examples: int, scale: float, key: int) -> None:
    rng = np.random.default_rng(key)
    first, second = rng.normal(size=(2, seeds, examples))
    tokens = rng.integers(1, 50, size=examples)
    found, mirrored = paired_difference(first, second, tokens), paired_difference(second, first, tokens)
    assert mirrored.value == pytest.approx(-found.value, abs=1e-15)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), rel=1e-9)
    scaled = paired_difference(scale * first, scale * second, tokens)
    assert (scaled.low, scaled.high) == pytest.approx((scale * found.low, scale * found.high), rel=1e-6)
    assert found.low <= found.value <= found.high
    if examples > 1 or seeds > 1:
        assert found.example_share + found.seed_share == pytest.approx(1.0)
        least = min(n - 1 for n in (examples, seeds) if n > 1)
        assert least - 1e-9 <= found.degrees_of_freedom <= examples + seeds


def test_resizing_to_the_same_numbers_changes_nothing_and_to_more_narrows() -> None:
    values = effects(np.random.default_rng(4), 3, 20, 1.0, 0.3, 0.5)
    found = difference_of(values, np.full(20, 3))
    assert found.resized(20, 3) == found
    assert found.resized(80, 3).example_variance == pytest.approx(found.example_variance / 4)
    assert found.resized(80, 3).half_width < found.half_width
    assert found.resized(20, 6).half_width < found.half_width


@pytest.mark.parametrize(
    ("first", "second", "tokens"),
    [
        (np.ones((2, 3)), np.ones((3, 3)), np.ones(3)),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones(2)),
        (np.ones(3), np.ones(3), np.ones(3)),
        (np.ones((0, 3)), np.ones((0, 3)), np.ones(3)),
        (np.ones((2, 3)), np.ones((2, 3)), np.zeros(3)),
        (np.full((2, 3), np.nan), np.ones((2, 3)), np.ones(3)),
    ],
)
def test_what_is_not_a_pair_is_refused(first: np.ndarray, second: np.ndarray, tokens: np.ndarray) -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_difference(first, second, tokens)
