"""What is said of equal settings (SCIENCE 3.10), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math
import statistics

from lowregret.analysis.condition import Condition
from lowregret.analysis.fits import exponential, mean
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.invariance.spec import InvarianceQuestion

ROUNDING = 1e-6
"""A distance below which two curves are the same."""


def claims(question: InvarianceQuestion) -> tuple[Stated[InvarianceQuestion], ...]:
    return (
        Stated(
            Statement(
                key="invariance-same",
                number="3.10",
                sentence="Alpha, init and learning rates transformed by (p, q) leave a training unchanged.",
                statistic="largest distance of a transformed run's training loss from the plain run's, as a share of "
                "what it learned",
                unit="share",
                high=0.01,
            ),
            _same,
        ),
        Stated(
            Statement(
                key="invariance-moved",
                number="3.10",
                sentence="There are two effective degrees of freedom: changing either one changes the training.",
                statistic="least distance among the runs that differ in one of the two invariants, over the largest "
                "among those that differ in none",
                unit="ratio",
                low=10.0,
            ),
            _moved,
        ),
    )


def _same(evidence: Evidence[InvarianceQuestion]) -> Measure:
    far = _far(evidence)
    return Measure(mean(list(_largest(evidence, far).values())), details=_details(far))


def _moved(evidence: Evidence[InvarianceQuestion]) -> Measure:
    far, same = _far(evidence), _transformed(evidence.question)
    largest = _largest(evidence, far)
    least = {seed: min(found[seed] for name, found in far.items() if name not in same) for seed in largest}
    ratios = [math.log2(least[seed] / max(largest[seed], ROUNDING)) for seed in largest]
    return Measure(exponential(mean(ratios)), details=_details(far))


def _transformed(question: InvarianceQuestion) -> set[str]:
    """The methods that differ from the plain one in neither invariant."""
    return {lora.name for lora in question.methods()[1 : 1 + len(question.transforms)]}


def _far(evidence: Evidence[InvarianceQuestion]) -> dict[str, dict[int, float]]:
    """Method → seed → its distance from the plain one."""
    plain, *others = evidence.question.methods()
    return {lora.name: distances(evidence.conditions["main"], lora.name, plain.name) for lora in others}


def _largest(evidence: Evidence[InvarianceQuestion], far: dict[str, dict[int, float]]) -> dict[int, float]:
    """Seed → the largest distance of a transformed run; of the seeds that all methods have."""
    seeds = sorted(set.intersection(*(set(found) for found in far.values()))) if far else []
    return {seed: max(far[name][seed] for name in _transformed(evidence.question)) for seed in seeds}


def _details(far: dict[str, dict[int, float]]) -> dict[str, float | None]:
    return {name: statistics.fmean(found.values()) if found else None for name, found in far.items()}


def distances(condition: Condition, method: str, reference: str) -> dict[int, float]:
    """Seed → largest distance of two training curves over what the reference learned, in its own units."""
    found = {}
    for trial in condition.of(reference):
        other = next(iter(condition.of(method, trial.record.seed)), None)
        steps = sorted(trial.train)
        if other is None or not steps:
            continue
        learned = trial.train[steps[0]] - min(trial.train.values())
        gaps = [abs(other.train[s] - trial.train[s]) if s in other.train else math.inf for s in steps]
        if learned > 0:
            found[trial.record.seed] = max(gaps) / learned
    return found
