"""The figure about how much an adapter holds."""

from __future__ import annotations

from lowregret.analysis.bits import stored_bits
from lowregret.analysis.fits import mean
from lowregret.questions.capacity.spec import CapacityQuestion
from lowregret.questions.claim import Evidence
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves
from lowregret.report.charts.ranks import FULL_NAME
from lowregret.spec import LoRA


def figures(evidence: Evidence[CapacityQuestion]) -> list[Figure]:
    condition = evidence.conditions["facts"]
    total = condition.fact_bits or 0.0
    points, bars, references = [], [], [Reference(total, f"all {total:,.0f} bits of the facts")]
    for method in condition.methods:
        trials = condition.at_best(method.name)
        found = mean([stored_bits(trial, total) for trial in trials])
        if found is None or found.value <= 0:
            continue
        if not isinstance(method, LoRA):
            references.append(Reference(found.value, f"{FULL_NAME}: {found.value:,.0f} bits"))
            continue
        size = float(trials[0].record.trainable_parameters)
        points.append((size, found.value))
        if found.low is not None and found.high is not None and found.low > 0:
            bars.append((size, found.low, found.high))
    sizes = [size for size, _ in points] or [1.0]
    theory = [(size, min(2 * size, total)) for size in sorted({*sizes, max(min(sizes), min(total / 2, max(sizes)))})]
    ample = 2 * min(sizes) >= total  # the line would lie on that of all facts
    chart = curves(
        [
            Series("LoRA", points, 0.8, bars, dots=True),
            Series("2 bits a parameter", [] if ample else theory, None, dashed=True),
        ],
        Axis("trainable parameters of the adapter", log=True, format="~s"),
        Axis("bits of facts stored", log=True, format="~s"),
        "Bits stored against trainable parameters",
        references=references,
    )
    return [
        Figure(
            "capacity-bits",
            "Bits stored against parameters",
            chart,
            "Facts whose bits are known, met many times by adapters of rising rank. Stored: the bits of all facts "
            "minus what the held-out questions about each of them still cost. "
            + (
                "At 2 bits a parameter even the smallest adapter here has room for all of them."
                if ample
                else "The dashed line is 2 bits a parameter up to all that there is to know."
            ),
        )
    ]
