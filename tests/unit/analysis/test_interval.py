"""The interval against textbook cases, a bootstrap, and its own promise of 95 %."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from lowregret.analysis.bowl import Bowl
from lowregret.analysis.interval import Interval, paired_difference


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


def of_two(rng: np.random.Generator, truth: float, tokens: np.ndarray, spread: tuple[float, ...]) -> Interval:
    """Two sides whose difference has this spread, with a quarter of each one's variance over seeds in common."""
    halves = [effects(rng, 3, len(tokens), *(each / math.sqrt(2) for each in spread)) for _ in range(2)]
    common = spread[1] / math.sqrt(6) * rng.normal(size=(3, 1))
    return paired_difference((truth + common + halves[0]) * tokens, (common + halves[1]) * tokens, tokens)


def test_one_seed_and_equal_tokens_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 1, 30))
    found = paired_difference(first, second, np.full(30, 7))
    expected = oracle.ttest_rel(first[0] / 7, second[0] / 7).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.degrees_of_freedom == pytest.approx(29)
    assert not found.covers_seeds
    assert found.covers_examples


def test_one_example_and_three_seeds_by_hand() -> None:
    """Losses per token 1, 2, 4.5 and 1, 2, 3: the differences are 0, 0, 1.5, their mean 0.5.

    Deviations −1.5, −0.5, 2 and −1, 0, 1: pooled variance (6.5 + 2) / 4 = 2.125, covariance 3.5 / 2 = 1.75. The
    correlation 14/17 is drawn to (2 · 14/17 + 4 · 0.3) / 6 = 0.474510, so the squared standard error of the mean is
    2 · 2.125 · 0.525490 / 3 = 0.744444, with 4 degrees of freedom, whose t quantile is 2.776445.
    """
    found = paired_difference(np.array([[2.0], [4.0], [9.0]]), np.array([[2.0], [4.0], [6.0]]), np.array([2]))
    assert found.value == 0.5
    assert found.seed_variance == pytest.approx(0.7444444)
    assert found.degrees_of_freedom == pytest.approx(4)
    assert found.half_width == pytest.approx(2.776445 * 0.7444444**0.5, rel=1e-6)
    assert found.covers_seeds
    assert not found.covers_examples


def test_the_bottoms_of_the_bowls_are_what_is_compared_by_hand() -> None:
    """Two examples of one token, two seeds, no noise between examples.

    First: losses 1.0 and 1.2, bowl 1.0 between 1.3 below and 1.1 above: A = 0.1, B = 0.3, so the bottom lies 0.25
    doublings up and (0.1 − 0.3)² / (8 · 0.4) = 0.0125 down. Second: 0.9 and 0.9, bowl 0.9 between 1.1 and 1.1: no
    depth. The value is 0.2 − 0.0125. Pooled variance (0.02 + 0) / 2 = 0.01, covariance 0, correlation 4/5 · 0.3 = 0.24,
    unpaired 0.0076. Seeds: 2 · 0.0076 / 2. Rates: 0.0038 · (3 · 0.25⁴ + 0.25²) / 2 + (0.15 · 0.0125)² = 0.000144531.
    """
    bowls = (Bowl(1.0, 1.3, 1.1), Bowl(0.9, 1.1, 1.1))
    found = paired_difference(
        np.array([[1.0, 1.0], [1.2, 1.2]]), np.array([[0.9, 0.9], [0.9, 0.9]]), np.array([1, 1]), bowls
    )
    assert found.value == pytest.approx(0.1875)
    assert found.depth == pytest.approx(0.0125)
    assert found.seed_variance == pytest.approx(0.0076)
    assert found.rate_variance == pytest.approx(0.0038 * (3 * 0.25**4 + 0.25**2) / 2 + 0.001875**2)
    assert found.example_variance == pytest.approx(0.0, abs=1e-30)
    assert found.degrees_of_freedom == pytest.approx(2)
    mirrored = paired_difference(
        np.array([[0.9, 0.9], [0.9, 0.9]]), np.array([[1.0, 1.0], [1.2, 1.2]]), np.array([1, 1]), bowls[::-1]
    )
    assert (mirrored.value, mirrored.half_width) == pytest.approx((-found.value, found.half_width))
    assert found.less(0.1).bounds == pytest.approx((found.low - 0.1, found.high - 0.1))


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
        (1.0, 0.685, 0.0, 0.92),
    ],
)
def test_95_percent_of_intervals_hold_the_truth(by_example: float, by_seed: float, both: float, least: float) -> None:
    rng, runs, truth = np.random.default_rng(1), 400, 0.3
    tokens = np.full(64, 5)
    found = [of_two(rng, truth, tokens, (by_example, by_seed, both)) for _ in range(runs)]
    coverage = sum(each.low <= truth <= each.high for each in found) / runs
    assert least <= coverage <= 1.0


def test_coverage_with_unequal_tokens_and_losses_that_grow_with_them() -> None:
    rng, runs, truth = np.random.default_rng(2), 400, 0.3
    hits = 0
    for _ in range(runs):
        tokens = rng.integers(5, 60, size=64)
        found = of_two(rng, truth, tokens, (0.2, 0.02, 0.2))
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / runs <= 1.0


def test_the_variance_agrees_with_the_pigeonhole_bootstrap() -> None:
    """Resampling seeds and examples, both with replacement (Owen 2007), counts the interaction more than once too."""
    rng = np.random.default_rng(3)
    seeds, examples, draws = 60, 80, 4000
    tokens = rng.integers(5, 60, size=examples)
    sides = [effects(rng, seeds, examples, 0.4, 0.1, 0.1) * tokens for _ in range(2)]
    found, values = paired_difference(*sides, tokens), sides[0] - sides[1]
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
        freedoms = [*([examples - 1] if examples > 1 else []), *([2 * (seeds - 1)] if seeds > 1 else [])]
        assert min(freedoms) - 1e-9 <= found.degrees_of_freedom <= sum(freedoms) + 1e-9


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
