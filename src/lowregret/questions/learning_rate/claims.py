"""What the post says of the best learning rate (SCIENCE 3.2), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math

from lowregret.analysis.condition import Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.place import mean_factor, middle_place, place_slope
from lowregret.analysis.rates import (
    fitted_rates,
    formula_over_found,
    from_rank_4,
    loose,
    ratio,
    shared_seeds,
    unless_loose,
)
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.learning_rate.spec import LearningRateQuestion


def claims(question: LearningRateQuestion) -> tuple[Stated[LearningRateQuestion], ...]:
    return (
        Stated(
            Statement(
                key="rate-ratio",
                number="3.2",
                sentence="LoRA's best learning rate is about ten times that of full fine-tuning.",
                statistic="LoRA's fitted best rate over FullFT's, geometric mean over ranks from 4 up",
                unit="ratio",
                low=5.0,
                high=20.0,
            ),
            _ratio,
        ),
        Stated(
            Statement(
                key="rate-drift",
                number="3.2",
                sentence="The best learning rate moves by less than a factor of 2 between ranks, from rank 4 up.",
                statistic="fitted best rate of the highest rank over that of the lowest, ranks from 4 up, both on the "
                "line through all of them in the logarithms",
                unit="ratio",
                low=0.5,
                high=2.0,
            ),
            _drift,
        ),
        Stated(
            Statement(
                key="rate-rank-1",
                number="3.2",
                sentence="Rank 1 has a lower best learning rate than the other ranks.",
                statistic="fitted best rate of rank 1 over the geometric mean of those from rank 4 up",
                unit="ratio",
                high=1.0,
            ),
            _rank_1,
        ),
        Stated(
            Statement(
                key="rate-formula",
                number="3.11",
                sentence="The formula by the hidden size names LoRA's best learning rate.",
                statistic="rate of the formula (M = 10) over LoRA's fitted best rate, geometric mean over ranks from 4 "
                "up",
                unit="ratio",
                low=0.5,
                high=2.0,
            ),
            lambda evidence: Measure(*formula_over_found(evidence.conditions["main"], evidence.question.model)),
        ),
    )


def _high(condition: Condition) -> list[str]:
    return [method.name for method in from_rank_4(condition)]


def _ratio(evidence: Evidence[LearningRateQuestion]) -> Measure:
    condition = evidence.conditions["main"]
    rates: dict[str, float | None] = {}
    for method in condition.methods:
        best = condition.best(method.name)
        rates[method.name] = None if best is None or best.fitted_rate is None else best.fitted_rate.value
    estimate, note, by_seed = ratio(condition, _high(condition))
    return Measure(estimate, note, {**by_seed, **rates})


def _drift(evidence: Evidence[LearningRateQuestion]) -> Measure:
    condition = evidence.conditions["main"]
    high = _high(condition)
    ranks = {method.name: math.log2(method.rank) for method in plain_loras(condition)}
    fits, missing = fitted_rates(condition, high)
    drifts = {}
    for seed in shared_seeds(fits):
        line = place_slope([ranks[name] for name in fits], [found[seed] for found in fits.values()])
        if line is not None:
            drifts[seed] = line * (max(ranks[name] for name in fits) - min(ranks[name] for name in fits))
    note = missing or loose(condition, high)
    estimate = unless_loose(mean_factor(list(drifts.values())), note)
    return Measure(estimate, note, {f"seed {seed}": 2.0**drift.at for seed, drift in drifts.items()})


def _rank_1(evidence: Evidence[LearningRateQuestion]) -> Measure:
    condition = evidence.conditions["main"]
    loras, high = plain_loras(condition), _high(condition)
    if not loras or loras[0].rank != 1 or not high:
        return Measure(None)
    own = loras[0].name
    fits, missing = fitted_rates(condition, [own, *high])
    apart = [fits[own][seed] - middle_place([fits[name][seed] for name in high]) for seed in shared_seeds(fits)]
    note = missing or loose(condition, [own, *high])
    return Measure(unless_loose(mean_factor(apart), note), note)
