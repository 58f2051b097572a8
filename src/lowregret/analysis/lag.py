"""The regret in steps: how many LoRA needs over those FullFT needs for the same loss, and whether the gap closes.

LoRA lags: its curve is FullFT's, drawn out, until capacity or overfitting sets in (SCIENCE 6). All from the curves of
the trials at each method's best rate. Torch-free.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from lowregret.analysis.comparison import Measured
from lowregret.analysis.fits import mean
from lowregret.analysis.interval import Interval
from lowregret.runs.study import Costs
from lowregret.runs.verdict import Lag, Trend

Curve = Mapping[int, float]
"""Step → held-out loss; step 0, where it is there, is the base."""
FEWEST = 3
"""Evaluations after the start, without which a curve says nothing of steps."""


def steps_to(curve: Curve, loss: float) -> float | None:
    """The step at which a curve is as low as `loss` for the first time; None where it is not, or before it was looked.

    Between two evaluations it is interpolated in the logarithm of the step, on which losses fall about linearly
    (SCIENCE 3.1). Before the first evaluation after the start there is nothing to interpolate.
    """
    before: tuple[int, float] | None = None
    lowest = math.inf
    for step, found in sorted(curve.items()):
        if step == 0:
            continue
        if found <= loss:
            if before is None:
                return None if found < loss else float(step)
            share = (before[1] - loss) / (before[1] - found)
            return math.exp((1 - share) * math.log(before[0]) + share * math.log(step))
        if found < lowest:
            lowest = found
        before = (step, lowest)
    return None


def factor(lora: Curve, full: Curve, regret: float) -> float | None:
    """k for a regret at the end: above 1 when LoRA is behind, below when it is ahead; None where the curves do not say.

    Behind, FullFT was where LoRA ends after T / k of its T steps; ahead, LoRA is where FullFT ends after k · T.
    """
    last = max(full)
    if regret > 0:
        step = steps_to(full, full[last] + regret)
        return None if step is None else max(lora) / step
    step = steps_to(lora, lora[max(lora)] - regret)
    return None if step is None else step / last


def measure_lag(
    lora: Sequence[Curve],
    full: Sequence[Curve],
    interval: Interval,
    *,
    constant_rate: bool = True,
) -> Lag | None:
    """What the curves say beside the regret's interval; None without curves.

    The interval of k is that of the regret, carried over by the curves themselves: k rises with the regret, so k covers
    as often as the regret does, but for the interpolation. It excludes 1 when the regret's excludes 0.

    Args:
        lora, full: by seed, the same seeds in the same order.
        interval: of the regret.
        constant_rate: whether the learning rate stays what it is, so that a part of a run is a shorter run.
    """
    if not lora or not full:
        return None
    ours, theirs = _average(lora), _average(full)
    common = sorted(step for step in ours.keys() & theirs.keys() if step > 0)
    if len(common) < FEWEST:
        few = f"{len(common)} evaluation{' is' if len(common) == 1 else 's are'} too few to count steps by"
        return Lag(note=f"{few}: a longer run has room for more, or --evals 8 with --max-eval.")
    value, low, high = (factor(ours, theirs, regret) for regret in (interval.value, interval.low, interval.high))
    last = common[-1]
    half = min(common[:-1], key=lambda step: abs(math.log(2 * step / last)))
    changes = [
        (one[last] - other[last]) - (one[half] - other[half])
        for one, other in zip(lora, full, strict=True)
        if {half, last} <= one.keys() & other.keys()
    ]
    change = mean(changes)
    learned = theirs[0] - theirs[last] if 0 in theirs else 0.0
    return Lag(
        factor=value,
        low=low,
        high=high,
        extrapolated=interval.value > 0,
        since=half,
        gap_change=None if change is None else change.value,
        gap_change_ci95=None
        if change is None or change.low is None or change.high is None
        else (change.low, change.high),
        trend=None if change is None else _trend(change.low, change.high),
        still_learned=(theirs[half] - theirs[last]) / learned if learned > 0 else None,
        note=""
        if constant_rate
        else "The learning rate decays, so that a part of a run is no shorter run: k is rough.",
    )


def with_costs(lag: Lag, lora: Measured, full: Measured, costs: Costs) -> Lag:
    """The lag with what a LoRA run of that length costs against FullFT's: time, multiply-adds, dollars."""
    if lag.factor is None:
        return lag
    seconds = _ratio(lora.seconds_alone, full.seconds_alone)
    adds = _ratio(*(costs.multiply_adds.get(side.name) for side in (lora, full)))
    dollars = None
    if seconds is not None and full.seconds_alone is not None and costs.price_per_hour is not None:
        whole = full.seconds_alone / 3600 * costs.price_per_hour
        dollars = (lag.factor * seconds * whole, whole)
    return lag.model_copy(
        update={
            "seconds": None if seconds is None else lag.factor * seconds,
            "multiply_adds": None if adds is None else lag.factor * adds,
            "dollars": dollars,
        }
    )


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _trend(low: float | None, high: float | None) -> Trend:
    if high is not None and high < 0:
        return "closes"
    return "widens" if low is not None and low > 0 else "unclear"


def _average(curves: Sequence[Curve]) -> dict[int, float]:
    """Over the seeds, at the steps that all of them have."""
    steps = set.intersection(*(set(curve) for curve in curves))
    return {step: statistics.fmean(curve[step] for curve in curves) for step in sorted(steps)}
