"""What the post says of time and memory (SCIENCE 3.9), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lowregret.analysis.fits import Estimate, exponential, mean
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.compute.spec import ComputeQuestion


def claims(question: ComputeQuestion) -> tuple[Stated[ComputeQuestion], ...]:
    return (
        Stated(
            Statement(
                key="compute-share",
                number="3.9",
                sentence="A LoRA step of low rank costs slightly more than two thirds of a full fine-tuning step.",
                statistic="time of a step at the lowest rank over FullFT's, widest base",
                unit="ratio",
                low=0.6,
                high=0.8,
            ),
            _share,
        ),
        Stated(
            Statement(
                key="compute-theory",
                number="3.9",
                sentence="The cost of a step follows from counting multiplications.",
                statistic="largest deviation of the time ratio from theory, as a share of it, widest base, ranks below "
                "hidden / 6",
                unit="share",
                high=0.15,
            ),
            _theory,
        ),
        Stated(
            Statement(
                key="compute-memory",
                number="3.9",
                sentence="LoRA needs less memory than full fine-tuning.",
                statistic="weights, gradients and moments at the lowest rank over FullFT's, widest base",
                unit="ratio",
                high=0.5,
            ),
            _memory,
        ),
    )


def _share(evidence: Evidence[ComputeQuestion]) -> Measure:
    widest = _widest(evidence)
    if widest is None:
        return Measure(None)
    ratios = time_ratios(widest)
    return Measure(ratios[min(ratios)], details=_details(evidence))


def _theory(evidence: Evidence[ComputeQuestion]) -> Measure:
    widest = _widest(evidence)
    if widest is None:
        return Measure(None)
    theory = {int(rank): float(value) for rank, value in widest["theory"].items()}
    off = [
        Estimate(
            value=abs(found.value / theory[rank] - 1),
            low=_distance(found, theory[rank])[0],
            high=_distance(found, theory[rank])[1],
            n=found.n,
        )
        for rank, found in time_ratios(widest).items()
        if rank <= widest["width"] / 6
    ]
    return Measure(max(off, key=lambda found: found.value, default=None), details=_details(evidence))


def _memory(evidence: Evidence[ComputeQuestion]) -> Measure:
    widest = _widest(evidence)
    if widest is None:
        return Measure(None)
    memory = {int(rank): value for rank, value in widest["lora_bytes"].items()}
    share = memory[min(time_ratios(widest))] / widest["full_bytes"]
    # counted, not sampled: there is no noise in it
    return Measure(Estimate(value=share, low=share, high=share, n=len(widest["full_seconds"])))


def _widest(evidence: Evidence[ComputeQuestion]) -> Mapping[str, Any] | None:
    """The times on the widest base."""
    return max(evidence.timings, key=lambda found: found["width"], default=None)


def _details(evidence: Evidence[ComputeQuestion]) -> dict[str, float | None]:
    details: dict[str, float | None] = {}
    for timing in evidence.timings:
        for rank, found in time_ratios(timing).items():
            details[f"hidden {timing['width']}, rank {rank}"] = found.value
    return details


def time_ratios(timing: Mapping[str, object]) -> dict[int, Estimate]:
    """Rank → time of a LoRA step over a FullFT step, from steps timed in turns."""
    full = timing["full_seconds"]
    assert isinstance(full, list)
    found: dict[int, Estimate] = {}
    lora = timing["lora_seconds"]
    assert isinstance(lora, dict)
    for rank, seconds in lora.items():
        ratios = mean([math.log2(own / other) for own, other in zip(seconds, full, strict=True)])
        estimate = exponential(ratios)
        if estimate is not None:
            found[int(rank)] = estimate
    return dict(sorted(found.items()))


def _distance(found: Estimate, theory: float) -> tuple[float | None, float | None]:
    """The least and the largest distance from theory that an interval allows, as a share of theory."""
    if found.low is None or found.high is None:
        return None, None
    low, high = found.low / theory - 1, found.high / theory - 1
    return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
