"""The excess description length (EDL) of a training, from its curve: how much it learned, in bits (SCIENCE 5).

EDL = Σ first-epoch pre-update loss − n · final held-out loss. Pure arithmetic on losses;
`analysis.finished_run` reads them from a run's folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lowregret.analysis.fits import slope
from lowregret.errors import SpecError

Regime = Literal["elicit", "teach", "unknown"]
"""What a training does: draw out what the base knows, or add new facts."""


FEWEST_EVALUATIONS = 5
"""In the second half of an epoch: Student's t then has three degrees of freedom, and its 97.5 % point is 3.2, where
three evaluations have 12.7."""


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
    note: str = ""
    """Why the regime is unknown, and what would tell it; empty when it is known."""


def excess_description_length(
    train_nll: Sequence[float], evaluations: Sequence[HeldOutPoint], final_nll: float
) -> ExcessDescriptionLength:
    """EDL of a training from its curve (SCIENCE 5).

    The sign of d(EDL/n)/dn tells the regime; falling is elicitation. At each evaluation within the first epoch the
    training so far is a training on that much data, whose first-epoch loss is that of its steps. It is the slope at
    the size of the pilot that counts, so the second half of the epoch is used: at its start every training has learned
    nothing yet, and rises. The 95 % interval of the slope, Student's t with n − 2 degrees of freedom, must leave out 0,
    and there must be `FEWEST_EVALUATIONS`: the curve is no line, and with three or four a bend passes for a slope.

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
    line = slope([x for x, _ in points], [y for _, y in points])
    regime: Regime = "unknown"
    note = ""
    if line is None or line.low is None or line.high is None or len(points) < FEWEST_EVALUATIONS:
        number = f"{len(points)} evaluation{'' if len(points) == 1 else 's'}"
        note = f"the pilot has {number} in the second half of its first epoch; {_remedy(len(train_nll))}"
    elif line.low <= 0 <= line.high:
        told = f"{line.value:+.2g} bits ({line.low:+.2g} to {line.high:+.2g})"
        note = f"its EDL per token changes by {told} an e-fold of data, up or down; {_remedy(len(train_nll))}"
    else:
        regime = "elicit" if line.value < 0 else "teach"
    return ExcessDescriptionLength(
        (whole - final_nll) / math.log(2),
        regime,
        None if line is None else line.value,
        whole / math.log(2),
        note,
    )


def _remedy(steps: int) -> str:
    """The evaluations that a pilot whose epoch has so many steps needs."""
    wanted = sorted({math.ceil(steps * (4 + place) / 8) for place in range(FEWEST_EVALUATIONS)})
    if len(wanted) < FEWEST_EVALUATIONS:
        return "a longer pilot would tell"
    return f"{FEWEST_EVALUATIONS} or more may tell: --evals {','.join(map(str, wanted))}"
