"""What the post says of the first steps (SCIENCE 3.4), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math
import statistics

from lowregret.analysis.condition import Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import at, exponential, mean
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
                statistic=f"standard deviation of the loss over ranks after {step} steps, as a share of what was "
                "learned by then",
                unit="share",
                high=0.02,
            ),
            _same,
        ),
        Stated(
            Statement(
                key="early-grow",
                number="3.4",
                sentence="The differences between ranks are tiny, then grow.",
                statistic=f"standard deviation of the held-out loss over ranks after {question.steps} steps over that "
                f"after {step}",
                unit="ratio",
                low=2.0,
            ),
            _grow,
        ),
    )


def _same(evidence: Evidence[EarlyQuestion]) -> Measure:
    spreads = _spreads(evidence)
    shares = []
    for curve in spreads.values():
        early = curve.get(evidence.question.early_steps)
        if early is not None and early[1] > 0:
            shares.append(early[0] / early[1])
    return Measure(mean(shares), details=_details(evidence, spreads))


def _grow(evidence: Evidence[EarlyQuestion]) -> Measure:
    spreads = _spreads(evidence)
    growth = []
    for curve in spreads.values():
        early, (last, _) = curve.get(evidence.question.early_steps), curve[max(curve)]
        # a run that ends early has not grown, or has it
        if early is not None and early[0] > 0 and last > 0 and evidence.question.early_steps < max(curve):
            growth.append(math.log2(last / early[0]))
    return Measure(exponential(mean(growth)), details=_details(evidence, spreads))


Spreads = dict[int, dict[int, tuple[float, float]]]


def _spreads(evidence: Evidence[EarlyQuestion]) -> Spreads:
    """With the step that the question calls early, whether or not there was an evaluation at it."""
    return spread_over_ranks(evidence.conditions["main"], evidence.question.early_steps)


def _details(evidence: Evidence[EarlyQuestion], spreads: Spreads) -> dict[str, float | None]:
    details: dict[str, float | None] = {}
    for seed, curve in spreads.items():
        for step in sorted({evidence.question.early_steps, max(curve)} & curve.keys()):
            details[f"seed {seed}, step {step}"] = curve[step][0]
    return details


def spread_over_ranks(condition: Condition, early: int | None = None) -> Spreads:
    """Seed → step → (standard deviation of the held-out loss over ranks, what had been learned by then on average).

    The steps are those of the evaluations, and `early`, where each curve is read between its evaluations.
    """
    found: Spreads = {}
    for seed in sorted({trial.record.seed for trial in condition.trials}):
        curves = [trial.test for lora in plain_loras(condition) for trial in condition.of(lora.name, seed)]
        steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        between = {early} if early is not None and steps and steps[0] <= early <= steps[-1] else set()
        for step in sorted({*steps, *between}):
            losses = [loss for curve in curves if (loss := at(curve, step)) is not None]
            learned = condition.base_nll - sum(losses) / len(losses)
            found.setdefault(seed, {})[step] = (statistics.pstdev(losses), learned)
    return found
