"""What is said of capacity (SCIENCE 3.8 and 5), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math
import statistics

from lowregret.analysis.bits import stored_bits
from lowregret.analysis.condition import Condition
from lowregret.analysis.edl import HeldOutPoint, excess_description_length
from lowregret.analysis.fits import mean, slope
from lowregret.questions.capacity.spec import CapacityQuestion
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.spec import LoRA

SATURATED = 0.9
"""An adapter that stores this share of the facts says nothing about what it could hold."""


def claims(question: CapacityQuestion) -> tuple[Stated[CapacityQuestion], ...]:
    return (
        Stated(
            Statement(
                key="capacity-recalled",
                number="3.8",
                sentence=f"Trained for {question.steps} steps on more facts than it can hold, an adapter recalls about "
                "two bits a parameter.",
                statistic=f"bits of facts recalled per trainable parameter of rank {min(question.ranks)}, which must "
                f"recall less than {100 * SATURATED:g} % of the facts; more may be stored, and more after longer "
                "training",
                unit="bits",
                low=1.0,
                high=3.0,
            ),
            _recalled,
        ),
        Stated(
            Statement(
                key="capacity-rank",
                number="3.8",
                sentence="What an adapter stores grows with its rank until the facts are all there.",
                statistic="slope of log2(bits stored) against log2(rank), ranks that store less than 90 % of the facts",
                unit="number",
                low=0.0,
            ),
            _rank,
        ),
        Stated(
            Statement(
                key="capacity-teach",
                number="5",
                sentence="Where training teaches new facts, the excess description length per token rises with the "
                "data.",
                statistic="slope of EDL per token against the logarithm of the tokens, facts",
                unit="bits",
                low=0.0,
            ),
            lambda evidence: _edl_slope(evidence, "teach"),
        ),
        Stated(
            Statement(
                key="capacity-elicit",
                number="5",
                sentence="Where training elicits what the base knows, the excess description length per token falls.",
                statistic="slope of EDL per token against the logarithm of the tokens, known data",
                unit="bits",
                high=0.0,
            ),
            lambda evidence: _edl_slope(evidence, "elicit"),
        ),
    )


def _recalled(evidence: Evidence[CapacityQuestion]) -> Measure:
    condition = evidence.conditions["facts"]
    total = condition.fact_bits
    if total is None:
        return Measure(None)
    stored = _stored(condition, total)
    lowest = min(stored, key=lambda method: method.rank, default=None)
    if lowest is None:
        return Measure(None)
    parameters = condition.at_best(lowest.name)[0].record.trainable_parameters
    if statistics.fmean(stored[lowest]) >= SATURATED * total:
        return Measure(None, "the lowest rank recalls nearly all of the facts", _details(stored, total))
    return Measure(mean([found / parameters for found in stored[lowest]]), details=_details(stored, total))


def _rank(evidence: Evidence[CapacityQuestion]) -> Measure:
    condition = evidence.conditions["facts"]
    total = condition.fact_bits
    if total is None:
        return Measure(None)
    stored = _stored(condition, total)
    growth = [
        (math.log2(method.rank), math.log2(found))
        for method, bits in stored.items()
        for found in bits
        if 0 < found < SATURATED * total
    ]
    return Measure(
        slope([x for x, _ in growth], [y for _, y in growth]),
        "" if growth else "every rank stores nearly all of the facts, or none",
        _details(stored, total),
    )


def _stored(condition: Condition, total: float) -> dict[LoRA, list[float]]:
    """Bits that each adapter has stored, an entry a seed."""
    found = {}
    for method in condition.methods:
        bits = [stored_bits(trial, total) for trial in condition.at_best(method.name)]
        if bits and isinstance(method, LoRA):
            found[method] = bits
    return found


def _details(stored: dict[LoRA, list[float]], total: float) -> dict[str, float | None]:
    means: dict[str, float | None] = {f"{lora.name}, bits": statistics.fmean(bits) for lora, bits in stored.items()}
    return {"bits of the facts": total, **means}


def _edl_slope(evidence: Evidence[CapacityQuestion], name: str) -> Measure:
    """d(EDL/n)/d(ln n) by seed, at the best rate; beside it MDL and EDL of the epoch, bits per token (SCIENCE 5)."""
    if evidence.conditions["facts"].fact_bits is None:
        return Measure(None)
    condition = evidence.conditions[name]
    slopes, details = {}, {}
    for trial in condition.at_best(condition.methods[0].name):
        train = [trial.train[step] for step in sorted(trial.train)]
        evaluations = [HeldOutPoint(step / len(train), loss) for step, loss in sorted(trial.test.items())]
        found, seed = excess_description_length(train, evaluations, trial.loss()), f"seed {trial.record.seed}"
        details[f"{seed}, MDL per token"] = found.first_epoch_bits_per_token
        details[f"{seed}, EDL per token"] = found.bits_per_token
        if found.slope is not None:
            slopes[seed] = details[seed] = found.slope
    return Measure(mean(list(slopes.values())), details=details)
