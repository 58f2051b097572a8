"""The difference of two held-out losses, with an interval from its three sources of noise. Torch-free.

They are the held-out examples, the seeds, and the lattice of learning rates: the best rate found is not the best rate,
and what it lacks is read off a parabola. `python -m benchmarks.coverage` says how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lowregret.analysis.bowl import Bowl

CONFIDENCE = 0.95
EXPECTED_CORRELATION = 0.3
"""Of the two methods' losses over seeds, which draw the same data order for both: 0.24 to 0.57 in the simulated
settings, whose noise is that of our own records (benchmarks/coverage.py)."""
_CORRELATION_WEIGHT = 4
"""The expectation counts as much as so many degrees of freedom: two to eight of them measure no correlation."""
_CORRELATION_BOUNDS = (-0.5, 0.9)
OWN_SHARE = 0.5
"""Share of the seeds' unpaired variance that is a trial's own and not common to all learning rates at its seed: only
that moves the parabola. About 0.6 in the simulated settings, and no number of seeds at one rate tells it."""


@dataclass(frozen=True)
class Interval:
    """A difference of token-weighted mean losses and its 95 % t interval, all in nats per supervised token."""

    value: float
    low: float
    high: float
    degrees_of_freedom: float
    """Satterthwaite's, for the sum of the variances; infinite where none of it was estimated: one seed, no differences
    between examples, and a bowl that is no parabola."""
    example_variance: float
    """Squared standard error that comes from the choice of held-out examples; 0 when there is one example only."""
    seed_variance: float
    """Squared standard error that comes from the seeds; 0 when there is one seed only."""
    examples: int
    seeds: int
    rate_variance: float = 0.0
    """Squared standard error that comes from reading the bottom between the learning rates tried."""
    depth: float = 0.0
    """By how much the first side's loss at its best rate lies above its bottom, less the same of the second: it has
    been taken off the plain difference."""

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Low and high; None when nothing could be known of them."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None

    @property
    def counted_freedom(self) -> float | None:
        """The degrees of freedom as a record has them: None where they have no end."""
        return self.degrees_of_freedom if math.isfinite(self.degrees_of_freedom) else None

    @property
    def variance(self) -> float:
        """Squared standard error of the value."""
        return self.example_variance + self.seed_variance + self.rate_variance

    @property
    def covers_seeds(self) -> bool:
        """False when there was one seed: its noise is then unknown and not in the interval."""
        return self.seeds > 1

    @property
    def covers_examples(self) -> bool:
        """False when there was one example: its noise is then unknown and not in the interval."""
        return self.examples > 1

    @property
    def example_share(self) -> float:
        """Share of the variance that more held-out examples would reduce, 0 to 1."""
        return self.example_variance / self.variance if self.variance else 0.0

    @property
    def seed_share(self) -> float:
        """Share of the variance that more seeds would reduce, 0 to 1."""
        return self.seed_variance / self.variance if self.variance else 0.0

    @property
    def rate_share(self) -> float:
        """Share of the variance that only rates between those tried would reduce, 0 to 1."""
        return self.rate_variance / self.variance if self.variance else 0.0

    def resized(self, examples: int, seeds: int) -> Interval:
        """What to expect of another number of examples and seeds: the two variances go as 1/n, the rest stays."""
        return _with_bounds(
            replace(
                self,
                example_variance=self.example_variance * (self.examples / examples),
                seed_variance=self.seed_variance * (self.seeds / seeds),
                examples=examples,
                seeds=seeds,
            )
        )

    def at(self, confidence: float) -> Interval:
        """The same estimate with bounds of another confidence; the whole line at 1."""
        return self if confidence == CONFIDENCE else _with_bounds(self, confidence)

    def less(self, amount: float) -> Interval:
        """The same interval, moved down."""
        return replace(self, value=self.value - amount, low=self.low - amount, high=self.high - amount)


def paired_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    tokens: NDArray[np.int64],
    bowls: Sequence[Bowl | None] = (None, None),
) -> Interval:
    """Loss of `first` minus that of `second`, each at the bottom of its bowl, with the 95 % interval.

    With d[s, e] the difference of the two summed losses and t[e] the tokens, seed s gives the ratio
    r[s] = Σ_e d[s, e] / Σ_e t[e]. The value is the mean of r over the S seeds, less the depth of the first bowl, plus
    that of the second. Three variances are added:

    - examples: those of a ratio estimator, linearised (Cochran, *Sampling Techniques*, 6.3): the residuals
      u[e] = (mean_s d[s, e] − mean r · t[e]) / mean(t), whose sum is 0, give Σ u² / (E (E − 1));
    - seeds: 2 v (1 − ρ) / S, with v the variance over seeds of a side's loss, pooled over both sides, and ρ their
      correlation, c / v of the pooled covariance c, drawn towards EXPECTED_CORRELATION: of few seeds a difference's
      own variance is a poor estimate, with S − 1 degrees of freedom; this has 2 (S − 1);
    - rates: of each side the variance of the depth (`Bottom.variance`) for a trial's own noise OWN_SHARE · v (1 − ρ).

    Examples and seeds both hold the noise of one example under one seed, so it is counted twice: the interval is a
    little too wide for that reason, never too narrow. The t quantile has Satterthwaite's degrees of freedom, with
    E − 1 for the examples and 2 (S − 1) for seeds and rates together. One seed, equal tokens, no bowls: exactly the
    paired t interval over examples.

    Args:
        first, second: per-example losses summed over tokens, nats, shape [seeds, examples]. Row s of both is the same
            seed, which draws the same data order for both methods; column e is the same example.
        tokens: supervised tokens of each example, shape [examples].
        bowls: of each side, the losses around its best learning rate; None when they are not known.

    Raises:
        ValueError: shapes that do not match, nothing to average, or losses that are not finite.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    weights = np.asarray(tokens, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or weights.shape != first.shape[1:]:
        raise ValueError(f"shapes {first.shape} and {second.shape} with tokens {weights.shape} are not paired losses")
    if first.shape[0] == 0 or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("a paired difference needs at least one seed and one supervised token")
    difference = first - second
    if not np.isfinite(difference).all():
        raise ValueError("a paired difference needs finite losses")
    seeds, examples = difference.shape
    at_best = float(difference.sum(axis=1).mean() / weights.sum())
    residuals = (difference.mean(axis=0) - at_best * weights) / weights.mean()
    unpaired = _unpaired_variance(np.stack([first.sum(axis=1), second.sum(axis=1)]) / weights.sum())
    bottoms = [bowl.bottom() for bowl in bowls if bowl is not None]
    signs = [sign for sign, bowl in zip((1, -1), bowls, strict=True) if bowl is not None]
    depth = sum(sign * bottom.depth for sign, bottom in zip(signs, bottoms, strict=True))
    return _with_bounds(
        Interval(
            value=at_best - depth,
            low=at_best,
            high=at_best,
            degrees_of_freedom=math.inf,
            example_variance=float((residuals**2).sum()) / (examples * (examples - 1)) if examples > 1 else 0.0,
            seed_variance=2 * unpaired / seeds,
            examples=examples,
            seeds=seeds,
            rate_variance=sum(bottom.variance(OWN_SHARE * unpaired) for bottom in bottoms),
            depth=depth,
        )
    )


def _unpaired_variance(losses: NDArray[np.float64]) -> float:
    """v (1 − ρ): what of a side's variance over seeds the pairing does not take off; `losses` is [side, seed]."""
    seeds = losses.shape[1]
    if seeds < 2:
        return 0.0
    deviations = losses - losses.mean(axis=1, keepdims=True)
    variance = float((deviations**2).sum()) / (2 * (seeds - 1))
    if variance == 0:
        return 0.0
    measured = float((deviations[0] * deviations[1]).sum()) / (seeds - 1) / variance
    weight = (seeds - 1) / (seeds - 1 + _CORRELATION_WEIGHT)
    drawn = weight * measured + (1 - weight) * EXPECTED_CORRELATION
    low, high = _CORRELATION_BOUNDS
    return float(variance * (1 - min(max(drawn, low), high)))


def _with_bounds(interval: Interval, confidence: float = CONFIDENCE) -> Interval:
    """Bounds and degrees of freedom from the variances; the whole line when neither variance can be known."""
    from scipy.special import stdtrit  # here, since importing scipy takes a while

    if interval.examples == 1 and interval.seeds == 1:
        return replace(interval, low=-math.inf, high=math.inf, degrees_of_freedom=0.0)
    total = interval.variance
    if total == 0:
        freedom = float(interval.examples + 2 * interval.seeds - 3)
        return replace(interval, low=interval.value, high=interval.value, degrees_of_freedom=freedom)
    # As shares, so that squares of tiny variances do not underflow.
    inverse = 0.0
    if interval.examples > 1:
        inverse += interval.example_share**2 / (interval.examples - 1)
    if interval.seeds > 1:
        inverse += (1 - interval.example_share) ** 2 / (2 * (interval.seeds - 1))
    freedom = 1 / inverse if inverse else math.inf
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(total)
    return replace(interval, low=interval.value - half, high=interval.value + half, degrees_of_freedom=freedom)
