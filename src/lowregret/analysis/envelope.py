"""Curves as the post draws them: for each rank the pointwise minimum over learning rates. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lowregret.analysis.condition import Condition
from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.spec import LoRA

MARGIN = 0.05
"""A rank has left the common curve when its loss lies above it by this share of what had been learned by then."""


def envelope(condition: Condition, method: str) -> dict[int, float]:
    """Step → the lowest held-out loss of any learning rate after that many steps, search seed."""
    found: dict[int, float] = {}
    for run in condition.of(method, SEARCH_SEED):
        for step, loss in run.test.items():
            if math.isfinite(loss):
                found[step] = min(loss, found.get(step, math.inf))
    return dict(sorted(found.items()))


def common_curve(condition: Condition) -> dict[int, float]:
    """The curve that low ranks leave: that of the highest rank, which starts as they do.

    Whether it is FullFT's as well is a claim of its own.
    """
    top = top_rank(condition)
    return {} if top is None else envelope(condition, top)


def departure(curve: Mapping[int, float], common: Mapping[int, float], base_nll: float) -> float | None:
    """The step from which on a curve lies above the common one by more than MARGIN; None when it never leaves.

    Between two evaluations it is interpolated in the logarithm of the step.
    """
    steps = sorted(curve.keys() & common.keys())
    excess = [(curve[s] - common[s]) / max(base_nll - common[s], 1e-12) - MARGIN for s in steps]
    if not steps or excess[-1] <= 0:
        return None
    first = next(i for i in range(len(steps)) if all(value > 0 for value in excess[i:]))
    if first == 0:
        return float(steps[0])
    below, above = excess[first - 1], excess[first]
    share = -below / (above - below)
    return math.exp(math.log(steps[first - 1]) * (1 - share) + math.log(steps[first]) * share)


def top_rank(condition: Condition) -> str | None:
    """The name of the highest rank among plain LoRAs."""
    loras = plain_loras(condition)
    return max(loras, key=lambda method: method.rank).name if loras else None


def plain_loras(condition: Condition) -> Sequence[LoRA]:
    """The LoRAs of a condition, by rank."""
    return sorted((m for m in condition.methods if isinstance(m, LoRA)), key=lambda method: method.rank)
