"""What the figures of methods by rank share: names, shades, axes, and loss against learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowregret.analysis.condition import Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import Estimate
from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Series, curves
from lowregret.spec import LoRA, Method

STEPS = Axis("optimizer steps", log=True)
NATS = Axis("held-out loss (nats per supervised token)")
FULL_NAME = "FullFT"


def shade(method: Method, loras: Sequence[LoRA]) -> float | None:
    """A LoRA's place on the ramp, by the logarithm of its rank; None for FullFT."""
    if not isinstance(method, LoRA):
        return None
    ranks = [lora.rank for lora in loras]
    low, high = math.log2(min(ranks)), math.log2(max(ranks))
    return 0.5 if high == low else (math.log2(method.rank) - low) / (high - low)


def named(method: Method) -> str:
    """Short enough for the end of a curve."""
    return f"rank {method.rank}" if isinstance(method, LoRA) else FULL_NAME


def u_curves(condition: Condition, key: str, name: str) -> Figure:
    """Held-out loss against learning rate, with the fitted best rate of each method."""
    loras = plain_loras(condition)
    series, rings, said = [], [], []
    losses: list[float] = []
    for method in condition.methods:
        points = [
            (trial.record.learning_rate, trial.loss())
            for trial in condition.of(method.name, SEARCH_SEED)
            if math.isfinite(trial.loss())
        ]
        losses += [loss for _, loss in points]
        dashed = not isinstance(method, LoRA)
        series.append(Series(named(method), points, shade(method, loras), dashed=dashed, dots=True))
        best = condition.best(method.name)
        if best is None or best.fitted_rate is None or best.loss is None:
            continue
        rate, bottom = best.fitted_rate, best.bottoms.get(SEARCH_SEED, best.loss.value)
        fitted = best.fitted.get(SEARCH_SEED)
        place = rate.value if fitted is None else 2.0**fitted.at
        rings.append((place, bottom, f"{named(method)}: best at {place:.3g} with seed {SEARCH_SEED}"))
        said.append(f"{named(method)} {_rate(rate)}")
    chart = curves(
        series,
        Axis("learning rate", log=True, format="~e"),
        Axis(NATS.title, high=_top(losses)),
        "Held-out loss against learning rate",
        marks=rings,
    )
    caption = (
        f"Best rates by a parabola through the best of the lattice and its neighbours: {'; '.join(said)}. A ring is "
        "the bottom of each parabola. LoRA's curves stand right of that of full fine-tuning; how far is the ratio."
    )
    return Figure(f"{key}-{name}", "Loss against learning rate", chart, caption)


def _top(losses: Sequence[float]) -> float | None:
    """The highest loss worth its space: far worse ones would flatten the differences that matter."""
    if not losses:
        return None
    low, ordered = min(losses), sorted(losses)
    return min(max(losses), low + max(3 * (ordered[len(ordered) // 2] - low), 0.05 * abs(low)))


def _rate(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.2g}"
    return f"{found.value:.2g} ({found.low:.2g} to {found.high:.2g})"
