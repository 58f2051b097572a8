"""The excess description length (EDL) of a training, from its curve: how much it learned, in bits (SCIENCE 5).

EDL = Σ first-epoch pre-update loss − n · final held-out loss. Pure arithmetic on losses; `analysis.pilot` reads them
from a run's folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lowregret.errors import SpecError

Regime = Literal["elicit", "teach", "unknown"]
"""What a training does: draw out what the base knows, or add new facts."""


@dataclass(frozen=True)
class HeldOutPoint:
    """A held-out loss during a pilot."""

    share: float
    """Of the first epoch's supervised tokens seen by then."""
    test_nll: float


@dataclass(frozen=True)
class ExcessDescriptionLength:
    """The excess description length of a pilot."""

    bits_per_token: float
    """Of the first epoch: EDL / n."""
    regime: Regime
    slope: float | None
    """d(EDL/n)/d(ln n) in bits per token; negative when training elicits. None when one evaluation is all there is."""
    first_epoch_bits_per_token: float


def excess_description_length(
    train_nll: Sequence[float], evaluations: Sequence[HeldOutPoint], final_nll: float
) -> ExcessDescriptionLength:
    """EDL of a training from its curve (SCIENCE 5).

    The sign of d(EDL/n)/dn tells the regime; falling is elicitation. At each evaluation within the first epoch the
    training so far is a training on that much data, whose first-epoch loss is that of its steps. It is the slope at
    the size of the pilot that counts, so the second half of the epoch is used: at its start every training has learned
    nothing yet, and rises. A slope within two of its standard errors says nothing.

    Args:
        train_nll: of each step of the first epoch before its update, nats per supervised token; steps count alike.
        evaluations: held-out losses during the first epoch, in order.
        final_nll: the held-out loss at the end, nats per supervised token.
    """
    if not train_nll:
        raise SpecError("a pilot without a training step has no first-epoch loss.")
    whole = sum(train_nll) / len(train_nll)
    points = []
    for evaluation in evaluations:
        steps = round(evaluation.share * len(train_nll))
        if steps >= 1 and evaluation.share >= 0.5:
            points.append((math.log(steps), (sum(train_nll[:steps]) / steps - evaluation.test_nll) / math.log(2)))
    line = _slope(points)
    regime: Regime = "unknown"
    if line is not None and abs(line[0]) > 2 * line[1]:
        regime = "elicit" if line[0] < 0 else "teach"
    return ExcessDescriptionLength(
        (whole - final_nll) / math.log(2), regime, None if line is None else line[0], whole / math.log(2)
    )


def _slope(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Of the least-squares line, and its standard error (0 for two points); None without two places."""
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if len(points) == 2:
        return slope, 0.0
    squares = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, math.sqrt(squares / (len(points) - 2) / spread)
