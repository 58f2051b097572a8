"""The figures about ranks: their curves, and where they leave the common one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lowregret.analysis.envelope import MARGIN, common_curve, departure, envelope, plain_loras
from lowregret.questions.claim import Evidence
from lowregret.questions.rank.spec import RankQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Series, curves
from lowregret.report.charts.ranks import NATS, STEPS, named, shade
from lowregret.spec import LoRA


def figures(evidence: Evidence[RankQuestion]) -> list[Figure]:
    found = []
    departures: list[Series] = []
    conditions = list(evidence.conditions.values())
    for index, condition in enumerate(conditions):
        loras, common = plain_loras(condition), common_curve(condition)
        series, rings, left = [], [], []
        for method in condition.methods:
            curve = envelope(condition, method.name)
            if not curve:
                continue
            dashed = not isinstance(method, LoRA)
            series.append(Series(named(method), list(curve.items()), shade(method, loras), dashed=dashed))
            step = departure(curve, common, condition.base_nll) if isinstance(method, LoRA) else None
            if step is not None and isinstance(method, LoRA):
                rings.append((step, _between(curve, step), f"{named(method)} leaves after {step:.3g} steps"))
                left.append((float(method.rank), step))
        part = index / max(len(conditions) - 1, 1)
        departures.append(Series(condition.name.replace("-", " "), left, part, dots=True))
        size = condition.name.replace("-", " ")
        chart = curves(series, STEPS, NATS, f"Held-out loss against steps by rank, {size}", marks=rings)
        caption = (
            f"Data {size}. For each rank the lowest held-out loss of any learning rate after so many steps. Where a "
            "curve lies on that of full fine-tuning (dashed) the rank is enough; a ring marks the step from which a "
            f"rank is behind the highest one by more than {MARGIN * 100:.0f} % of what had been learned."
        )
        found.append(Figure(f"rank-{condition.name}", f"Loss by rank, {size}", chart, caption))
    asked = [float(lora.rank) for lora in plain_loras(conditions[0])]
    ranks = Axis("rank", log=True, ticks=asked, low=min(asked), high=max(asked))
    ends = Axis("step of departure", log=True, low=1.0, high=float(max(c.steps for c in conditions)))
    chart = curves(departures, ranks, ends, "Step at which each rank leaves the common curve")
    caption = (
        "When capacity runs out: the step at which each rank leaves the common curve, a line a data size. The post has "
        "it rise with the rank. A rank without a point stays with the common curve to the end."
    )
    found.append(Figure("rank-departure", "Where ranks leave the common curve", chart, caption))
    return found


def _between(curve: Mapping[int, float], step: float) -> float:
    """A curve's height at a step between two evaluations, linear in the logarithm of the step."""
    steps = sorted(curve)
    above = next((s for s in steps if s >= step), steps[-1])
    below = max((s for s in steps if s <= step), default=above)
    if above == below:
        return curve[above]
    share = math.log(step / below) / math.log(above / below)
    return curve[below] * (1 - share) + curve[above] * share
