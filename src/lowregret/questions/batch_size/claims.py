"""What the post says of the batch (SCIENCE 3.5), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import mean, slope
from lowregret.analysis.rates import loose, unless_loose
from lowregret.questions.batch_size.spec import BatchSizeQuestion
from lowregret.questions.claim import Evidence, Measure, Stated, Statement

Slopes = dict[str, dict[int, float]]
"""Method → seed → slope of the loss per doubling of the batch."""


def claims(question: BatchSizeQuestion) -> tuple[Stated[BatchSizeQuestion], ...]:
    return (
        Stated(
            Statement(
                key="batch-gap",
                number="3.5",
                sentence="As the batch grows, LoRA pays a larger penalty than full fine-tuning.",
                statistic="slope of LoRA's loss minus FullFT's per doubling of the batch, mean over ranks",
                unit="nats",
                low=0.0,
            ),
            _gap,
        ),
        Stated(
            Statement(
                key="batch-rank-free",
                number="3.5",
                sentence="That penalty does not depend on the rank.",
                statistic="slope of the highest rank's loss minus the lowest's per doubling, over FullFT's slope",
                unit="share",
                low=-0.25,
                high=0.25,
            ),
            _rank_free,
        ),
        Stated(
            Statement(
                key="batch-small:full",
                number="3.5",
                sentence="Full fine-tuning does best at small batches.",
                statistic="slope of FullFT's loss per doubling of the batch",
                unit="nats",
                low=0.0,
            ),
            _small_full,
        ),
        Stated(
            Statement(
                key="batch-small:lora",
                number="3.5",
                sentence="LoRA does best at small batches.",
                statistic="slope of LoRA's loss per doubling of the batch, mean over ranks",
                unit="nats",
                low=0.0,
            ),
            _small_lora,
        ),
    )


def _gap(evidence: Evidence[BatchSizeQuestion]) -> Measure:
    loras, slopes, seeds = _slopes(evidence)
    gaps = [sum(slopes[name][s] for name in loras) / len(loras) - slopes[FULL][s] for s in seeds]
    note = _loose(evidence, [*loras, FULL])
    return Measure(unless_loose(mean(gaps), note), note, _details(slopes))


def _rank_free(evidence: Evidence[BatchSizeQuestion]) -> Measure:
    loras, slopes, seeds = _slopes(evidence)
    apart = [slopes[loras[-1]][s] - slopes[loras[0]][s] for s in seeds]
    own = _average(slopes[FULL])
    free = mean(apart)
    if len(loras) == 1:
        return Measure(None, "one rank has nothing to be compared with", _details(slopes))
    note = _loose(evidence, [*loras, FULL])
    found = free.over(abs(own)) if free is not None and own else None
    return Measure(unless_loose(found, note), note, _details(slopes))


def _small_full(evidence: Evidence[BatchSizeQuestion]) -> Measure:
    _, slopes, _ = _slopes(evidence)
    note = _loose(evidence, [FULL])
    return Measure(unless_loose(mean(list(slopes[FULL].values())), note), note, _details(slopes))


def _small_lora(evidence: Evidence[BatchSizeQuestion]) -> Measure:
    loras, slopes, seeds = _slopes(evidence)
    note = _loose(evidence, loras)
    found = mean([sum(slopes[name][s] for name in loras) / len(loras) for s in seeds])
    return Measure(unless_loose(found, note), note, _details(slopes))


def _loose(evidence: Evidence[BatchSizeQuestion], methods: Sequence[str]) -> str:
    """A note when at some batch a best rate is not bracketed; else ""."""
    return next(filter(None, (loose(condition, methods) for condition in evidence.conditions.values())), "")


def _slopes(evidence: Evidence[BatchSizeQuestion]) -> tuple[list[str], Slopes, list[int]]:
    """(names of the LoRAs by rank, slopes, the seeds that all methods have)."""
    conditions = list(evidence.conditions.values())
    loras = [method.name for method in plain_loras(conditions[0])]
    slopes = {name: _batch_slopes(conditions, name) for name in (*loras, FULL)}
    return loras, slopes, sorted(set.intersection(*(set(found) for found in slopes.values())))


def _batch_slopes(conditions: Sequence[Condition], method: str) -> dict[int, float]:
    """Seed → slope of the loss at each batch's best rate against log2(batch).

    Of the seeds that have a loss for every batch: of fewer it would be the slope of something else.
    """
    points: dict[int, list[tuple[float, float]]] = {}
    for condition in conditions:
        best = condition.best(method)
        for seed, loss in (best.losses if best is not None else {}).items():
            points.setdefault(seed, []).append((math.log2(condition.spec.batch_size), loss))
    whole = {seed: found for seed, found in points.items() if len(found) == len(conditions)}
    lines = {s: slope([x for x, _ in found], [y for _, y in found]) for s, found in whole.items()}
    return {seed: line.value for seed, line in sorted(lines.items()) if line is not None}


def _details(slopes: Slopes) -> dict[str, float | None]:
    return {f"{name}, per doubling": _average(found) for name, found in slopes.items()}


def _average(found: Mapping[int, float]) -> float | None:
    return sum(found.values()) / len(found) if found else None
