"""What the post says of the first steps (SCIENCE 3.4), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math

from lowregret.analysis.condition import Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import exponential, mean
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.early.spec import EarlyQuestion


def claims(question: EarlyQuestion) -> tuple[Stated[EarlyQuestion], ...]:
    step = question.early_steps
    return (
        Stated(
            Statement(
                key="early-same",
                number="3.4",
                sentence="At one learning rate, the curves of all ranks are the same at first.",
                statistic=f"spread of the loss over ranks after {step} steps, as a share of what was learned by then",
                unit="share",
                high=0.05,
            ),
            _same,
        ),
        Stated(
            Statement(
                key="early-grow",
                number="3.4",
                sentence="The differences between ranks are tiny, then grow.",
                statistic=f"spread of the held-out loss over ranks after {question.steps} steps over that after {step}",
                unit="ratio",
                low=2.0,
            ),
            _grow,
        ),
    )


def _same(evidence: Evidence[EarlyQuestion]) -> Measure:
    spreads = spread_over_ranks(evidence.conditions["main"])
    shares = []
    for curve in spreads.values():
        spread, learned = curve[_early_step(evidence, curve)]
        if learned > 0:
            shares.append(spread / learned)
    return Measure(mean(shares), details=_details(evidence, spreads))


def _grow(evidence: Evidence[EarlyQuestion]) -> Measure:
    spreads = spread_over_ranks(evidence.conditions["main"])
    growth = []
    for curve in spreads.values():
        step = _early_step(evidence, curve)
        (spread, _), (last, _) = curve[step], curve[max(curve)]
        if spread > 0 and last > 0 and step < max(curve):  # a run that ends early has not grown, or has it
            growth.append(math.log2(last / spread))
    return Measure(exponential(mean(growth)), details=_details(evidence, spreads))


Spreads = dict[int, dict[int, tuple[float, float]]]


def _early_step(evidence: Evidence[EarlyQuestion], curve: dict[int, tuple[float, float]]) -> int:
    """The evaluation nearest to what the question calls early."""
    return min(curve, key=lambda s: (abs(s - evidence.question.early_steps), s))


def _details(evidence: Evidence[EarlyQuestion], spreads: Spreads) -> dict[str, float | None]:
    details: dict[str, float | None] = {}
    for seed, curve in spreads.items():
        step = _early_step(evidence, curve)
        details[f"seed {seed}, step {step}"] = curve[step][0]
        details[f"seed {seed}, step {max(curve)}"] = curve[max(curve)][0]
    return details


def spread_over_ranks(condition: Condition) -> Spreads:
    """Seed → step → (highest minus lowest held-out loss over ranks, what had been learned by then on average)."""
    found: Spreads = {}
    for seed in sorted({trial.record.seed for trial in condition.trials}):
        curves = [trial.test for lora in plain_loras(condition) for trial in condition.of(lora.name, seed)]
        steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        for step in steps:
            losses = [curve[step] for curve in curves]
            learned = condition.base_nll - sum(losses) / len(losses)
            found.setdefault(seed, {})[step] = (max(losses) - min(losses), learned)
    return found
