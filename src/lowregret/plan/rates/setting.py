"""What schedule, batch, length and a small base do to the best learning rate. Torch-free.

The sweep of law.py varies none of them. They were measured elsewhere, with bases of three sizes, and are known as far
as that reaches: `python -m benchmarks.rates_elsewhere` fits them and says how far they miss a base that they were not
fitted on (docs/findings/2026-11-29-rates-elsewhere.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from lowregret.plan.rates.law import LAW, SWEEP_BATCH, SWEEP_STEPS
from lowregret.plan.rates.term import Term
from lowregret.spec.optimizer import DEFAULT_DECAY_FRACTION, Schedule

CONSTANT = 0.38
"""The best constant rate over the best peak of one that decays linearly to zero. Measured side by side it is 0.37 to
0.55 on `tiny` (ranks 1 and 16 and FullFT, 100 and 400 steps); the 4 B base beside the sweep asks for less."""
BATCH_POWER = 0.30
STEPS_POWER, FEWEST_STEPS = -0.13, 25
"""Both were found together: at equal examples `tiny` wants batch^0.43 (4 to 256 rows, ranks 4 and 64 and FullFT), and
SmolLM2 batch^0.24 to 0.47 (2 to 48 rows, ranks 4 and 16 and FullFT). In fewer than 25 steps SmolLM2's best rate does
not move."""
SMALL_POWER, SMALLEST = -0.54, 5e7
"""Below the sweep's smallest base (1.2 B) the best rate rises faster than within it, down to about so many parameters:
SmolLM2-135M and `tiny` (1 M) both want about 4 times what the sweep's power gives. Where it ends is our assumption."""
_SCHEDULE_SPREAD = math.log(1.35)
_SETTING_SPREAD, _MOST_SETTING_SPREAD = 0.25, 0.9
"""Of ln rate: for each e-fold that batch and length are away from the sweep's, and at most."""
MEASURED_BATCHES, MEASURED_STEPS = (4, 256), (16, 2000)
"""Where the two powers were measured."""
_BEYOND_SPREAD = 0.5
"""Of ln rate: for each e-fold beyond those. Our assumption."""
_SMALL_SPREAD = math.log(2)


def mean_rate(schedule: Schedule) -> float:
    """Mean of the learning rate over a run, as a share of its peak."""
    if schedule == "constant":
        return 1.0
    return 1 - DEFAULT_DECAY_FRACTION / 2 if schedule == "wsd" else 0.5


def schedule_terms(schedule: Schedule) -> Iterator[Term]:
    """From the sweep's linear decay to this schedule, by how much of the peak it keeps in the mean."""
    share = 2 * mean_rate(schedule) - 1
    if not share:
        return
    factor = CONSTANT**share
    between = "" if schedule == "constant" else " (in between, by the mean of its rate: our assumption)"
    yield Term(
        math.log(factor),
        _SCHEDULE_SPREAD,
        "measured" if schedule == "constant" else "assumed",
        "schedule",
        f"The sweep's rate decays linearly to zero and this one is {schedule}: x{factor:.2f}{between}; the best "
        f"constant rate is {CONSTANT:g} of it (0.37 to 0.55 on tiny; docs/findings/2026-11-29-rates-elsewhere.md).",
    )


def size_terms(total: float) -> Iterator[Term]:
    """For bases smaller or larger than the sweep's."""
    smallest, largest = LAW.sizes
    if total < smallest:
        factor = (max(total, SMALLEST) / smallest) ** SMALL_POWER
        yield Term(
            math.log(factor),
            _SMALL_SPREAD,
            "measured",
            "a base smaller than the sweep's",
            f"The sweep's smallest base has {smallest:.2g} parameters, this one {total:.2g}: x{factor:.2f}, as "
            "SmolLM2-135M and tiny show (docs/findings/2026-11-29-rates-elsewhere.md).",
        )
    elif total > largest:
        yield Term(
            0.0,
            abs(LAW.size_power) * math.log(total / largest),
            "assumed",
            "a base larger than the sweep's",
            f"The sweep's largest model has {largest:.2g} parameters, this one {total:.2g}: the interval also holds "
            "the rate at that size.",
        )


def run_terms(batch_size: int, steps: int) -> Iterator[Term]:
    """For batches and lengths other than the sweep's."""
    far = math.hypot(math.log(batch_size / SWEEP_BATCH), math.log(steps / SWEEP_STEPS))
    beyond = [_beyond(batch_size, MEASURED_BATCHES), _beyond(steps, MEASURED_STEPS)]
    spread = math.hypot(min(far * _SETTING_SPREAD, _MOST_SETTING_SPREAD), *(_BEYOND_SPREAD * each for each in beyond))
    if batch_size != SWEEP_BATCH:
        factor = (batch_size / SWEEP_BATCH) ** BATCH_POWER
        yield Term(
            math.log(factor),
            spread,
            "assumed" if beyond[0] else "measured",
            "batch",
            f"Batch {batch_size} where the sweep had {SWEEP_BATCH}: x{factor:.2f}, to the power {BATCH_POWER:g}, as "
            "measured on tiny and SmolLM2 (docs/findings/2026-11-29-rates-elsewhere.md).",
        )
        spread = 0.0
    if steps != SWEEP_STEPS:
        factor = (max(steps, FEWEST_STEPS) / SWEEP_STEPS) ** STEPS_POWER
        yield Term(
            math.log(factor),
            spread,
            "assumed" if beyond[1] else "measured",
            "length",
            f"{steps:,} steps where the sweep had {SWEEP_STEPS}: x{factor:.2f}, to the power {STEPS_POWER:.2f}, as "
            "measured on tiny and SmolLM2 (docs/findings/2026-11-29-rates-elsewhere.md).",
        )


def _beyond(value: int, measured: tuple[int, int]) -> float:
    """E-folds beyond where something was measured; 0 inside."""
    low, high = measured
    return max(math.log(low / value), math.log(value / high), 0.0)
