"""The figures about equal settings."""

from __future__ import annotations

import math

from lowregret.analysis.fits import exponential, mean
from lowregret.questions.claim import Evidence
from lowregret.questions.invariance.claims import ROUNDING, distances
from lowregret.questions.invariance.spec import InvarianceQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Series, curves, forest
from lowregret.report.charts.ranks import NATS
from lowregret.spec import LoRA


def figures(evidence: Evidence[InvarianceQuestion]) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    plain, *others = question.methods()
    same = {lora.name for lora in others[: len(question.transforms)]}
    series: list[Series] = []
    rows: list[tuple[str, float | None, float | None, float | None]] = []
    for lora in (plain, *others):
        trial = next(iter(condition.of(lora.name, 0)), None)
        if trial is None:
            continue
        name = _changes(lora, plain) if lora.name != plain.name else "plain"
        place = None if lora.name == plain.name else 0.95 if lora.name in same else 0.15
        said = "" if lora.name in same and any(one.name == "transformed" for one in series) else name
        said = "transformed" if said and lora.name in same else said
        series.append(Series(said, [(float(s), loss) for s, loss in trial.test.items()], place, dashed=place is None))
        if lora.name != plain.name:
            found = exponential(
                mean([math.log2(max(d, ROUNDING)) for d in distances(condition, lora.name, plain.name).values()])
            )
            if found is not None:
                rows.append((("same: " if lora.name in same else "moved: ") + name, found.value, found.low, found.high))
    return [
        Figure(
            "invariance-distance",
            "How far each transform moves the training",
            forest(
                rows,
                "distance from plain / what was learned (log scale)",
                "Distance of each transformed training from the plain one",
                log=True,
                format="~e",
            ),
            "The largest distance of each run's loss from the plain run's, as a share of what that learned. Transforms "
            "that keep both invariants (same) stay as near as rounding allows; changing either one (moved) "
            "takes the training elsewhere by orders of magnitude more. Runs that are equal are drawn at 1e-6.",
        ),
        Figure(
            "invariance-curves",
            "Trajectories",
            curves(
                series,
                Axis("optimizer steps", log=True),
                NATS,
                "Held-out loss of the plain run, of the transformed and of the changed ones",
            ),
            "Held-out loss, seed 0. The transformed runs lie on the plain one (dashed); those that differ in one "
            "invariant do not.",
        ),
    ]


def _changes(lora: LoRA, plain: LoRA) -> str:
    parts = [
        f"{word}×{now / was:.3g}"
        for word, now, was in (
            ("α", lora.alpha, plain.alpha),
            ("A₀", lora.init_scale, 1.0),
            ("lr A", lora.a_rate, 1.0),
            ("lr B", lora.b_rate, 1.0),
        )
        if now != was
    ]
    return " ".join(parts)
