"""The figures about time and memory."""

from __future__ import annotations

from lowregret.questions.claim import Evidence
from lowregret.questions.compute.claims import time_ratios
from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves

_RANKS = Axis("rank", log=True, ticks=[2.0**k for k in range(11)])


def figures(evidence: Evidence[ComputeQuestion]) -> list[Figure]:
    series = []
    timings = sorted(evidence.timings, key=lambda found: found["width"])
    for index, timing in enumerate(timings):
        ratios, place = time_ratios(timing), index / max(len(timings) - 1, 1)
        points = [(float(rank), found.value) for rank, found in ratios.items()]
        bars = [
            (float(rank), found.low, found.high)
            for rank, found in ratios.items()
            if found.low is not None and found.high is not None
        ]
        series.append(Series(f"hidden {timing['width']}", points, place, bars, dots=True))
        theory = sorted((float(rank), float(value)) for rank, value in timing["theory"].items())
        series.append(Series("", theory, place, dashed=True))
    chart = curves(
        series,
        _RANKS,
        Axis("time of a LoRA step / of a FullFT step"),
        "Time of a LoRA step over a FullFT step against rank, measured and by theory",
        references=[Reference(1.0, "as fast as FullFT"), Reference(2 / 3, "2/3")],
    )
    memory = [
        Series(
            f"hidden {timing['width']}",
            [(float(rank), float(size) / timing["full_bytes"]) for rank, size in timing["lora_bytes"].items()],
            index / max(len(timings) - 1, 1),
            dots=True,
        )
        for index, timing in enumerate(timings)
    ]
    second = curves(
        memory,
        _RANKS,
        Axis("memory of LoRA / of FullFT"),
        "Weights, gradients and moments of LoRA over FullFT against rank",
        references=[Reference(1.0, "as much as FullFT"), Reference(0.25, "the frozen base alone: 1/4")],
    )
    return [
        Figure(
            "compute-time",
            "Time of a step against theory",
            chart,
            "Measured steps (solid, 95 % interval) beside a count of multiply-adds (dashed), a colour a width: "
            "slightly more than 2/3 at low rank, above 1 where the rank passes about a sixth of the width.",
        ),
        Figure(
            "compute-memory",
            "Memory of weights and optimizer",
            second,
            "Counted bytes of weights, gradients and Adam's moments in float32; activations are left out.",
        ),
    ]
