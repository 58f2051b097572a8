"""The figures about the width of the base."""

from __future__ import annotations

from lowregret.analysis.condition import FULL
from lowregret.analysis.place import mean_factor
from lowregret.analysis.rates import log_ratios
from lowregret.questions.claim import Evidence
from lowregret.questions.scaling.spec import ScalingQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves
from lowregret.report.charts.ranks import named, u_curves
from lowregret.spec import LoRA


def figures(evidence: Evidence[ScalingQuestion]) -> list[Figure]:
    ratios: list[tuple[float, float]] = []
    bars: list[tuple[float, float, float]] = []
    regrets: list[tuple[float, float]] = []
    whiskers: list[tuple[float, float, float]] = []
    conditions = sorted(evidence.conditions.values(), key=lambda condition: condition.hidden_size)
    for condition in conditions:
        width = float(condition.hidden_size)
        loras = sorted((m for m in condition.methods if isinstance(m, LoRA)), key=lambda lora: lora.rank)
        ratio = mean_factor(list(log_ratios(condition, [lora.name for lora in loras])[0].values()))
        if ratio is not None:
            ratios.append((width, ratio.value))
            bars += [(width, ratio.low, ratio.high)] if ratio.low is not None and ratio.high is not None else []
        full, regret = condition.best(FULL), condition.difference(loras[-1].name, FULL)
        if regret is not None and full is not None and full.loss is not None:
            share = regret.over(full.loss.value / 100)
            regrets.append((width, share.value))
            whiskers += [(width, share.low, share.high)] if share.low is not None and share.high is not None else []
    widths = Axis("hidden size", log=True, ticks=[float(condition.hidden_size) for condition in conditions])
    top = named(loras[-1]) if conditions else ""
    first = curves(
        [Series("ratio", ratios, 0.8, bars, dots=True)],
        widths,
        Axis("best rate of LoRA / of FullFT", log=True, ticks=[0.5, 1, 2, 5, 10, 20]),
        "Ratio of best learning rates against the width of the base",
        references=[Reference(10.0, "the post: 10×")],
    )
    second = curves(
        [Series(top, regrets, 0.8, whiskers, dots=True)],
        widths,
        Axis("regret (% of the FullFT loss)"),
        "Regret of the highest rank against the width of the base",
        references=[Reference(0.0, "")],
    )
    found = [
        Figure(
            "scaling-ratio",
            "The ratio of best rates by size of the base",
            first,
            "Bases made alike that differ in width, the same data, steps and search. A level line would mean that the "
            "ratio of the post carries over to small bases.",
        ),
        Figure(
            "scaling-regret",
            "Regret by size of the base",
            second,
            f"Held-out loss of {top} minus that of full fine-tuning, as a share of the latter, 95 % interval.",
        ),
    ]
    return [*found, *(u_curves(condition, "scaling", condition.name) for condition in conditions)]
