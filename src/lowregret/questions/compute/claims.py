"""What the post says of a step's time (SCIENCE 3.9), each statement beside what measures it. Torch-free."""

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
        *(_of_theory(rank) for rank in sorted(question.ranks) if rank <= max(question.widths) / 6),
    )


def _of_theory(rank: int) -> Stated[ComputeQuestion]:
    return Stated(
        Statement(
            key=f"compute-theory:{rank}",
            number="3.9",
            sentence=f"At rank {rank} the cost of a step follows from counting multiplications.",
            statistic="time of a step over FullFT's, as a multiple of what theory says, widest base",
            unit="ratio",
            low=0.85,
            high=1.15,
        ),
        lambda evidence: _theory(evidence, rank),
    )


def _share(evidence: Evidence[ComputeQuestion]) -> Measure:
    widest = _widest(evidence)
    if widest is None:
        return Measure(None)
    ratios = time_ratios(widest)
    return Measure(ratios[min(ratios)], details=_details(evidence))


def _theory(evidence: Evidence[ComputeQuestion], rank: int) -> Measure:
    widest = _widest(evidence)
    found = {} if widest is None else time_ratios(widest)
    if widest is None or rank not in found:
        return Measure(None)
    return Measure(found[rank].over(float(widest["theory"][str(rank)])), details=_details(evidence))


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
