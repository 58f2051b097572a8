"""What changes with the width of the base (SCIENCE 3.11 and 3.1), each statement beside its measure. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import slope
from lowregret.analysis.place import Place, mean_place, middle_place, place_slope
from lowregret.analysis.rates import formula_over_found, log_ratios, unless_loose
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.question import plain
from lowregret.questions.scaling.spec import ScalingQuestion


def claims(question: ScalingQuestion) -> tuple[Stated[ScalingQuestion], ...]:
    return (
        Stated(
            Statement(
                key="scaling-ratio",
                number="3.11",
                sentence="The ratio of best learning rates is the same for all sizes of the base.",
                statistic="slope of log2(LoRA's best rate over FullFT's) per doubling of the hidden size",
                unit="number",
                low=-0.25,
                high=0.25,
            ),
            _ratio,
        ),
        Stated(
            Statement(
                key="scaling-regret",
                number="3.1",
                sentence="The regret of high-rank LoRA falls as the base grows.",
                statistic="slope of the highest rank's regret, a share of the FullFT loss, per doubling of the width",
                unit="share",
                high=0.0,
            ),
            _regret,
        ),
        *(_of_formula(question, model) for model in question.models),
    )


def _of_formula(question: ScalingQuestion, model: str) -> Stated[ScalingQuestion]:
    """Each base has a hidden size of its own, and the formula is one for all."""
    return Stated(
        Statement(
            key=f"scaling-formula:{plain(model)}",
            number="3.11",
            sentence=f"The formula by the hidden size names LoRA's best learning rate on {plain(model)}.",
            statistic="rate of the formula (M = 10) over LoRA's fitted best rate, geometric mean over ranks from 4 up",
            unit="ratio",
            low=0.5,
            high=2.0,
        ),
        lambda evidence: Measure(*formula_over_found(evidence.conditions[plain(model)], model)),
    )


def _ratio(evidence: Evidence[ScalingQuestion]) -> Measure:
    details: dict[str, float | None] = {}
    points: dict[int, list[tuple[float, Place]]] = {}
    for name, condition, _ in _finished(evidence):
        by_seed, _ = _ratios(condition)
        for seed, value in by_seed.items():
            points.setdefault(seed, []).append((math.log2(condition.hidden_size), value))
        details[name] = 2.0 ** middle_place(list(by_seed.values())).at if by_seed else None
    lines = [place_slope([x for x, _ in found], [y for _, y in found]) for found in points.values()]
    loose = _loose(evidence)
    return Measure(unless_loose(mean_place([line for line in lines if line]), loose), loose, details)


def _regret(evidence: Evidence[ScalingQuestion]) -> Measure:
    details: dict[str, float | None] = {}
    costs: list[tuple[float, float]] = []
    for name, condition, loss in _finished(evidence):
        regret = condition.difference(plain_loras(condition)[-1].name, FULL)
        if regret is not None:
            details[name] = regret.value / loss
            costs.append((math.log2(condition.hidden_size), regret.value / loss))
    loose = _loose(evidence)
    return Measure(unless_loose(slope([x for x, _ in costs], [y for _, y in costs]), loose), loose, details)


def _finished(evidence: Evidence[ScalingQuestion]) -> Iterator[tuple[str, Condition, float]]:
    """Each base on which FullFT came to a loss: its name, its trials and that loss."""
    for name, condition in evidence.conditions.items():
        full = condition.best(FULL)
        if full is not None and full.loss is not None:
            yield name, condition, full.loss.value


def _ratios(condition: Condition) -> tuple[dict[int, Place], str]:
    return log_ratios(condition, [lora.name for lora in plain_loras(condition)])


def _loose(evidence: Evidence[ScalingQuestion]) -> str:
    """The first note on a best rate of any base: both claims rest on all of them."""
    return next((note for condition in evidence.conditions.values() if (note := _ratios(condition)[1])), "")
