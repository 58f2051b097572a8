"""The difference of two held-out losses with an interval from both sources of noise: examples and seeds. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference of token-weighted mean losses and its 95 % t interval, all in nats per supervised token."""

    value: float
    low: float
    high: float
    degrees_of_freedom: float
    """Satterthwaite's, for the sum of the two variances."""
    example_variance: float
    """Squared standard error that comes from the choice of held-out examples; 0 when there is one example only."""
    seed_variance: float
    """Squared standard error that comes from the seeds; 0 when there is one seed only."""
    examples: int
    seeds: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

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
        total = self.example_variance + self.seed_variance
        return self.example_variance / total if total else 0.0

    @property
    def seed_share(self) -> float:
        """Share of the variance that more seeds would reduce, 0 to 1."""
        total = self.example_variance + self.seed_variance
        return self.seed_variance / total if total else 0.0

    def resized(self, examples: int, seeds: int) -> Interval:
        """What to expect of another number of examples and seeds: each variance goes as 1/n, the value stays."""
        return _with_bounds(
            replace(
                self,
                example_variance=self.example_variance * (self.examples / examples),
                seed_variance=self.seed_variance * (self.seeds / seeds),
                examples=examples,
                seeds=seeds,
            )
        )


def paired_difference(first: NDArray[np.float64], second: NDArray[np.float64], tokens: NDArray[np.int64]) -> Interval:
    """Mean loss of `first` minus that of `second`, with its 95 % interval.

    With d[s, e] the difference of the two summed losses and t[e] the tokens, seed s gives the ratio
    r[s] = Σ_e d[s, e] / Σ_e t[e], and the value is its mean over seeds. Two variances are added:

    - examples: those of a ratio estimator, linearised (Cochran, *Sampling Techniques*, 6.3): the residuals
      u[e] = (mean_s d[s, e] − value · t[e]) / mean(t), whose sum is 0, give Σ u² / (E (E − 1));
    - seeds: the sample variance of r over S.

    Both hold the noise of the interaction (one example under one seed), so it is counted twice: the interval is a
    little too wide, never too narrow for that reason. Subtracting an estimate of it could leave less than nothing at
    three seeds. The t quantile has Satterthwaite's degrees of freedom, an approximation: in simulated normal effects
    its coverage is 95 % or a little more while the examples' noise is the larger one; where the seeds' variance is
    about ten times the examples' it falls to 92 % with three seeds and to 88 % with two. One seed, equal tokens:
    exactly the paired t interval over examples.

    Args:
        first, second: per-example losses summed over tokens, nats, shape [seeds, examples]. Row s of both is the same
            seed, which draws the same data order for both methods; column e is the same example.
        tokens: supervised tokens of each example, shape [examples].

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
    per_seed = difference.sum(axis=1) / weights.sum()
    value = float(per_seed.mean())
    residuals = (difference.mean(axis=0) - value * weights) / weights.mean()
    return _with_bounds(
        Interval(
            value=value,
            low=value,
            high=value,
            degrees_of_freedom=math.inf,
            example_variance=float((residuals**2).sum()) / (examples * (examples - 1)) if examples > 1 else 0.0,
            seed_variance=float(per_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0,
            examples=examples,
            seeds=seeds,
        )
    )


def _with_bounds(interval: Interval) -> Interval:
    """Bounds and degrees of freedom from the variances; the whole line when neither variance can be known."""
    from scipy.special import stdtrit  # here, since importing scipy takes a while

    if interval.examples == 1 and interval.seeds == 1:
        return replace(interval, low=-math.inf, high=math.inf, degrees_of_freedom=0.0)
    by_examples, by_seeds = interval.example_variance, interval.seed_variance
    total = by_examples + by_seeds
    if total == 0:
        freedom = float(interval.examples + interval.seeds - 2)
        return replace(interval, low=interval.value, high=interval.value, degrees_of_freedom=freedom)
    # As shares, so that squares of tiny variances do not underflow.
    inverse = 0.0
    if interval.examples > 1:
        inverse += (by_examples / total) ** 2 / (interval.examples - 1)
    if interval.seeds > 1:
        inverse += (by_seeds / total) ** 2 / (interval.seeds - 1)
    freedom = 1 / inverse
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(total)
    return replace(interval, low=interval.value - half, high=interval.value + half, degrees_of_freedom=freedom)
