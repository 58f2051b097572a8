"""What became of each claim of a study: holds, does not hold, or open here. A pure function of raw records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from lowregret.analysis.condition import Condition
from lowregret.analysis.fits import Estimate
from lowregret.questions.claim import Evidence, Measure, Statement
from lowregret.questions.registry import claims
from lowregret.spec import Spec

Ruling = Literal["holds", "does not hold", "open"]
MIN_SEEDS = 3
"""Independent values that a claim needs where noise matters."""
_WITHOUT: Mapping[int, str] = {1: "One value has no interval.", 2: "A line through two points has no interval."}
"""Why an estimate of so few values has none."""


class Claim(Spec):
    """A statement and its evidence."""

    statement: Statement
    ruling: Ruling
    estimate: Estimate | None
    """None when it could not be measured."""
    note: str = ""
    """Why it is open, or what to know about the number."""
    details: dict[str, float | None] = Field(default_factory=dict)
    """The parts of the statistic, such as its value at each size."""


class Claims(Spec):
    """`claims.json`: a study's answer and what it cost."""

    kind: str
    claims: tuple[Claim, ...]
    noise_nats: float | None
    """The noise floor: standard deviation over seeds of a held-out loss at a best rate, pooled."""
    trials: dict[str, int]
    """Status → how many."""
    unbracketed: tuple[str, ...] = ()
    """`method (condition)` of each search that found no worse rate on one side."""
    diverged: tuple[str, ...] = ()
    """`seed N of METHOD (condition)` of each that diverged at its method's best rate, and is in no mean."""
    seconds: float = 0.0
    """Of training, all trials."""


def judge_study(evidence: Evidence[Any]) -> Claims:
    """Every claim of a study's question, by its records."""
    records = [trial.record for trial in evidence.trials]
    diverged = _diverged(evidence)
    judged = [_judged(stated.statement, stated.measure(evidence)) for stated in claims(evidence.question)]
    return Claims(
        kind=evidence.kind,
        claims=tuple(_without(claim, diverged) for claim in judged),
        noise_nats=evidence.noise,
        trials=dict(sorted(Counter(record.status for record in records).items())),
        unbracketed=tuple(_unbracketed(evidence)),
        diverged=diverged,
        seconds=math.fsum(record.seconds for record in records),
    )


def rule(statement: Statement, estimate: Estimate) -> Ruling:
    """Holds when the whole interval is within the bounds, does not hold when it is wholly outside, else open."""
    low = -math.inf if statement.low is None else statement.low
    high = math.inf if statement.high is None else statement.high
    if estimate.low is None or estimate.high is None:
        return "open"
    above = estimate.low > 0 if low == 0 else estimate.low >= low
    below = estimate.high < 0 if high == 0 else estimate.high <= high
    if above and below:
        return "holds"
    outside = estimate.high < low or estimate.low > high or (estimate.high <= 0 == low) or (estimate.low >= 0 == high)
    return "does not hold" if outside else "open"


def _judged(statement: Statement, found: Measure) -> Claim:
    if found.estimate is None or not math.isfinite(found.estimate.value):
        note = found.note or "it could not be measured here"
        return Claim(statement=statement, ruling="open", estimate=None, note=note, details=_details(found))
    estimate, note = found.estimate, found.note
    ruling = rule(statement, estimate)
    if not estimate.known:
        note = " ".join(filter(None, (note, _WITHOUT.get(estimate.n, ""))))
    elif estimate.n < MIN_SEEDS:
        ruling = "open"
        few = (
            f"{estimate.n} {'value is' if estimate.n == 1 else 'values are'} too few to decide; {MIN_SEEDS} are needed."
        )
        note = " ".join(filter(None, (note, few)))
    return Claim(statement=statement, ruling=ruling, estimate=estimate, note=note, details=_details(found))


def _without(claim: Claim, diverged: tuple[str, ...]) -> Claim:
    """The claim with a note on the seeds that its study's means leave out."""
    if not diverged:
        return claim
    left_out = f"Left out, because it diverged at a best rate: {', '.join(diverged)}."
    return claim.model_copy(update={"note": " ".join(filter(None, (claim.note, left_out)))})


def _details(found: Measure) -> dict[str, float | None]:
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in found.details.items()
    }


def _unbracketed(evidence: Evidence[Any]) -> list[str]:
    found = []
    for condition, method in _searched(evidence):
        best = condition.best(method)
        if best is None or not best.bracketed:
            found.append(f"{method} ({condition.name})")
    return found


def _diverged(evidence: Evidence[Any]) -> tuple[str, ...]:
    return tuple(
        f"seed {seed} of {method} ({condition.name})"
        for condition, method in _searched(evidence)
        for seed in condition.diverged(method)
    )


def _searched(evidence: Evidence[Any]) -> Iterator[tuple[Condition, str]]:
    """Each method with a best rate to find, under each condition."""
    for condition in evidence.conditions.values():
        if condition.spec.learning_rates == "search":
            for method in condition.methods:
                yield condition, method.name
