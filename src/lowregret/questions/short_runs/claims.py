"""What the post says of short runs (SCIENCE 3.3), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math

from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.place import Place, mean_place, middle_place, place_slope
from lowregret.analysis.rates import log_ratios, ratio, unless_loose
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.short_runs.spec import ShortRunsQuestion


def claims(question: ShortRunsQuestion) -> tuple[Stated[ShortRunsQuestion], ...]:
    return (
        Stated(
            Statement(
                key="short-ratio",
                number="3.3",
                sentence="In runs of about 100 steps, LoRA's best learning rate is about fifteen times that of FullFT.",
                statistic="LoRA's fitted best rate over FullFT's at the length nearest to 100 steps",
                unit="ratio",
                low=10.0,
                high=22.5,
            ),
            lambda evidence: _ratio(evidence, nearest(evidence.question, 100)),
        ),
        Stated(
            Statement(
                key="short-falls",
                number="3.3",
                sentence="The ratio of best learning rates falls with the length of the run.",
                statistic="slope of log2(ratio) against log2(steps)",
                unit="number",
                high=0.0,
            ),
            _falls,
        ),
        Stated(
            Statement(
                key="short-towards",
                number="3.3",
                sentence="In longer runs the ratio of best learning rates comes near ten.",
                statistic=f"LoRA's fitted best rate over FullFT's after {question.lengths[-1]} steps",
                unit="ratio",
                low=6.7,
                high=15.0,
            ),
            lambda evidence: _ratio(evidence, evidence.question.lengths[-1]),
        ),
    )


def _by_length(evidence: Evidence[ShortRunsQuestion]) -> dict[int, tuple[dict[int, Place], str]]:
    """Length of the run → what `log_ratios` says of it."""
    condition = evidence.conditions["main"]
    names = [method.name for method in plain_loras(condition)]
    return {step: log_ratios(condition, names, step) for step in evidence.question.lengths}


def _details(by_length: dict[int, tuple[dict[int, Place], str]]) -> dict[str, float | None]:
    return {
        f"{step} steps": 2.0 ** middle_place(list(found.values())).at if found else None
        for step, (found, _) in by_length.items()
    }


def nearest(question: ShortRunsQuestion, steps: int) -> int:
    """The length nearest to so many steps, in the logarithm."""
    return min(question.lengths, key=lambda step: abs(math.log(step / steps)))


def _ratio(evidence: Evidence[ShortRunsQuestion], length: int) -> Measure:
    condition = evidence.conditions["main"]
    names = [method.name for method in plain_loras(condition)]
    estimate, note, _ = ratio(condition, names, length)
    return Measure(estimate, " ".join(filter(None, (f"At {length} steps.", note))), _details(_by_length(evidence)))


def _falls(evidence: Evidence[ShortRunsQuestion]) -> Measure:
    by_length = _by_length(evidence)
    slopes = []
    for seed in sorted(set().union(*(set(found) for found, _ in by_length.values()))):
        points = [(math.log2(step), found[seed]) for step, (found, _) in by_length.items() if seed in found]
        line = place_slope([x for x, _ in points], [y for _, y in points])
        if line is not None:
            slopes.append(line)
    loose = next((note for _, note in by_length.values() if note), "")
    return Measure(unless_loose(mean_place(slopes), loose), loose, _details(by_length))
