"""The figures about the first steps."""

from __future__ import annotations

from lowregret.analysis.envelope import plain_loras
from lowregret.questions.claim import Evidence
from lowregret.questions.early.claims import spread_over_ranks
from lowregret.questions.early.spec import EarlyQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Series, curves
from lowregret.report.charts.ranks import NATS, STEPS, named, shade


def figures(evidence: Evidence[EarlyQuestion]) -> list[Figure]:
    condition = evidence.conditions["main"]
    loras = plain_loras(condition)
    series = []
    for lora in loras:
        trials = condition.of(lora.name)
        steps = sorted(set.intersection(*(set(trial.test) for trial in trials))) if trials else []
        points = [(float(step), sum(trial.test[step] for trial in trials) / len(trials)) for step in steps]
        series.append(Series(named(lora), points, shade(lora, loras)))
    rate = condition.spec.learning_rates[0]
    first = curves(series, STEPS, NATS, "Held-out loss in the first steps, by rank, at one learning rate")
    spreads = spread_over_ranks(condition)
    lines = [
        Series(f"seed {seed}", [(float(s), spread) for s, (spread, _) in curve.items() if spread > 0], 0.15 + 0.35 * i)
        for i, (seed, curve) in enumerate(spreads.items())
    ]
    second = curves(
        lines[:3],
        STEPS,
        Axis("standard deviation over ranks (nats)", log=True),
        "Spread of the loss over ranks against steps",
    )
    return [
        Figure(
            "early-curves",
            "The first steps, by rank",
            first,
            f"All ranks at the learning rate {rate:.3g}, mean over seeds. The post has the curves of all ranks "
            "coincide at first, because of the factor 1/r.",
        ),
        Figure(
            "early-spread",
            "How far the ranks are apart",
            second,
            "Standard deviation of the held-out loss over ranks, a line a seed: tiny at first, then growing.",
        ),
    ]
