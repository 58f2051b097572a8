"""Small fits with intervals: a mean, a line, a curve between its points. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from lowregret.runs.record import Record

CONFIDENCE = 0.95


class Estimate(Record):
    """A statistic and its 95 % interval."""

    value: float
    low: float | None = None
    """None: unknown, or without a bound."""
    high: float | None = None
    n: int = Field(default=1, ge=0)
    """Independent values behind it: seeds, or points of a fit."""
    freedom: float | None = None
    """Degrees of freedom of its t interval; None without one, and where they have no end."""
    logarithmic: bool = False
    """Whether the interval is even about the value in the logarithm, as that of a ratio is."""

    @property
    def known(self) -> bool:
        """Whether it has an interval."""
        return self.low is not None and self.high is not None

    def over(self, divisor: float) -> Estimate:
        """The estimate in units of a positive number."""
        low, high = (None if bound is None else bound / divisor for bound in (self.low, self.high))
        return self.model_copy(update={"value": self.value / divisor, "low": low, "high": high})

    def without(self, *bounds: Literal["low", "high"]) -> Estimate:
        """The estimate when its interval has no such bound."""
        return self.model_copy(update=dict.fromkeys(bounds))

    def level(self, bound: float) -> float | None:
        """The α at which the interval of confidence 1 − α would end at `bound`: 2 P(T > t · d / h).

        T is Student's with the interval's degrees of freedom, t its 97.5 % point, d the distance from the value to the
        bound and h that from the value to the end of the 95 % interval on that side; of a ratio both in the logarithm.
        None where the interval is not known there.
        """
        end = self.low if bound < self.value else self.high
        if end is None or self.freedom is None:
            return None
        value = self.value
        if self.logarithmic:
            if bound <= 0:
                return 0.0
            value, end, bound = math.log2(value), math.log2(end), math.log2(bound)
        if end == value:
            return 0.0
        from scipy.special import stdtr  # here, since importing scipy takes a while

        return float(2 * stdtr(self.freedom, -_t(self.freedom) * abs((bound - value) / (end - value))))


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean with Student's t interval; without one for a single value, None for none."""
    if not values:
        return None
    value = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(value=value)
    half = _t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(value=value, low=value - half, high=value + half, n=len(values), freedom=len(values) - 1)


def exponential(found: Estimate | None) -> Estimate | None:
    """2 to the power of an estimate: a ratio from a mean of log2 ratios."""
    if found is None:
        return None
    low, high = (None if bound is None else 2.0**bound for bound in (found.low, found.high))
    return found.model_copy(update={"value": 2.0**found.value, "low": low, "high": high, "logarithmic": True})


def slope(xs: Sequence[float], ys: Sequence[float]) -> Estimate | None:
    """Of the least-squares line, with its t interval from three points on; None without two places."""
    if len(set(xs)) < 2:
        return None
    x_mean, y_mean = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    value = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    if len(xs) < 3:
        return Estimate(value=value, n=len(xs))
    residual = sum((y - y_mean - value * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    half = _t(len(xs) - 2) * math.sqrt(residual / (len(xs) - 2) / spread)
    return Estimate(value=value, low=value - half, high=value + half, n=len(xs), freedom=len(xs) - 2)


def at(curve: Mapping[int, float], step: float) -> float | None:
    """A curve's value after `step`: between two evaluations on the line in the logarithm of the step.

    None outside of the evaluations.
    """
    if step in curve:
        return curve[int(step)]
    before = max((s for s in curve if 0 < s < step), default=None)
    after = min((s for s in curve if s > step), default=None)
    if before is None or after is None:
        return None
    share = math.log(step / before) / math.log(after / before)
    return curve[before] + share * (curve[after] - curve[before])


def r_squared(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Share of the variance of `ys` that a line in `xs` explains; None when there is none to explain."""
    line = slope(xs, ys)
    total = sum((y - statistics.fmean(ys)) ** 2 for y in ys) if ys else 0.0
    if line is None or total == 0:
        return None
    x_mean, y_mean = statistics.fmean(xs), statistics.fmean(ys)
    residual = sum((y - y_mean - line.value * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    return 1 - residual / total


def _t(freedom: float) -> float:
    from scipy.special import stdtrit  # here, since importing scipy takes a while

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
