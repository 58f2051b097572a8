"""What became of each claim of a study: holds, does not hold, or open here. A pure function of raw records."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from lowregret.analysis.condition import Condition
from lowregret.analysis.fits import CONFIDENCE, Estimate
from lowregret.notebook_card import card, number
from lowregret.questions.claim import Evidence, Measure, Statement
from lowregret.questions.registry import claims
from lowregret.runs.record import Record
from lowregret.runs.records import STOPPED

Ruling = Literal["holds", "does not hold", "open"]
ALPHA = 1 - CONFIDENCE
"""The probability of a false ruling that the interval of one claim allows at most."""
MIN_SEEDS = 3
"""Independent values that a claim needs where noise matters."""
_WITHOUT: Mapping[int, str] = {1: "One value has no interval.", 2: "A line through two points has no interval."}
"""Why an estimate of so few values has none."""


class Claim(Record):
    """A statement and its evidence."""

    statement: Statement
    ruling: Ruling
    estimate: Estimate | None
    """None when it could not be measured."""
    p: float | None = None
    """The least α at which the interval of confidence 1 − α rules as this one does, or would; None where it never
    rules: without an interval, or of too few values."""
    holm: float | None = None
    """`p`, corrected for the number of claims of this study."""
    corrected: Ruling | None = None
    """The ruling by `holm`; None in records that have none."""
    note: str = ""
    """Why it is open, or what to know about the number."""
    details: dict[str, float | None] = Field(default_factory=dict)
    """The parts of the statistic, such as its value at each size."""


class Claims(Record):
    """`claims.json`: a study's answer and what it cost."""

    kind: str
    claims: tuple[Claim, ...]
    expected_false: float | None = None
    """Rulings that may be expected to be false, at most: 0.05 for each claim with a p-value."""
    noise_nats: float | None
    """The noise floor: standard deviation over seeds of a held-out loss at a best rate, pooled."""
    trials: dict[str, int]
    """Status → how many."""
    unbracketed: tuple[str, ...] = ()
    """`method (condition)` of each search that found no worse rate on one side."""
    diverged: tuple[str, ...] = ()
    """`seed N of METHOD (condition)` of each that diverged at its method's best rate, and is in no mean."""
    stopped: tuple[str, ...] = ()
    """`METHOD at RATE, seed N (condition)` of each that somebody asked to stop, and is in no mean."""
    seconds: float = 0.0
    """Of training, all trials."""

    def _repr_html_(self) -> str:
        """For a notebook: what became of each claim."""
        return card(
            f"The question {self.kind}: {sum(self.trials.values())} trials",
            head=("claim", "ruling", "here", "95 % interval"),
            rows=(
                (
                    f"{claim.statement.number} {claim.statement.sentence}",
                    claim.ruling,
                    "" if claim.estimate is None else number(claim.estimate.value, ".3g"),
                    "" if claim.estimate is None else _interval(claim.estimate),
                )
                for claim in self.claims
            ),
            notes=(f"{claim.statement.number}: {claim.note}" for claim in self.claims if claim.note),
        )


def _interval(found: Estimate) -> str:
    return "" if found.low is None or found.high is None else f"{found.low:.3g} to {found.high:.3g}"


def judge_study(evidence: Evidence[Any]) -> Claims:
    """Every claim of a study's question, by its records."""
    records = [trial.record for trial in evidence.trials]
    diverged, stopped = _diverged(evidence), _stopped(evidence)
    plain = [_judged(stated.statement, stated.measure(evidence)) for stated in claims(evidence.question)]
    judged = [
        claim.model_copy(update={"holm": p, "corrected": corrected(claim, p)})
        for claim, p in zip(plain, holm(plain), strict=True)
    ]
    return Claims(
        kind=evidence.kind,
        claims=tuple(_without(claim, diverged, stopped) for claim in judged),
        expected_false=expected_false(judged),
        noise_nats=evidence.noise,
        trials=dict(sorted(Counter(record.status for record in records).items())),
        unbracketed=tuple(_unbracketed(evidence)),
        diverged=diverged,
        stopped=stopped,
        seconds=math.fsum(record.seconds for record in records if record.taken_from is None),
    )


def rule(statement: Statement, estimate: Estimate) -> Ruling:
    """Holds when the whole interval is within the bounds, does not hold when it is wholly outside, else open.

    An interval with one end only is without a bound on the other side.
    """
    low = -math.inf if statement.low is None else statement.low
    high = math.inf if statement.high is None else statement.high
    if estimate.low is None and estimate.high is None:
        return "open"
    least = -math.inf if estimate.low is None else estimate.low
    most = math.inf if estimate.high is None else estimate.high
    above = least > 0 if low == 0 else least >= low
    below = most < 0 if high == 0 else most <= high
    if above and below:
        return "holds"
    outside = most < low or least > high or (most <= 0 == low) or (least >= 0 == high)
    return "does not hold" if outside else "open"


def p_value(statement: Statement, estimate: Estimate) -> float | None:
    """The least α at which the interval of confidence 1 − α still rules: ≤ 0.05 where the 95 % interval does.

    Of a value within the bounds it is the larger of the levels at which its interval reaches a bound, of one outside
    that of the bound that it has passed. None where the interval is not known on that side.
    """
    low, high = statement.low, statement.high
    passed = [low] if low is not None and estimate.value < low else []
    passed += [high] if high is not None and estimate.value > high else []
    bounds = passed or [bound for bound in (low, high) if bound is not None]
    levels = [level for bound in bounds if (level := estimate.level(bound)) is not None]
    return max(levels) if len(levels) == len(bounds) else None


def holm(claims: Sequence[Claim]) -> tuple[float | None, ...]:
    """Of each claim its p-value corrected for all of these: Holm (Scand. J. Stat. 6, 1979).

    Of m p-values the k-th smallest is multiplied by m − k + 1, and none comes out below one before it. Where rulings
    are made at a corrected value of 0.05, the probability that any of them is false is 5 % at most. Claims without a
    p-value rule nothing and are not counted.
    """
    ranked = sorted((claim.p, place) for place, claim in enumerate(claims) if claim.p is not None)
    found: dict[int, float] = {}
    largest = 0.0
    for before, (p, place) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - before) * p))
        found[place] = largest
    return tuple(found.get(place) for place in range(len(claims)))


def expected_false(claims: Sequence[Claim]) -> float:
    """How many of the plain rulings may be expected to be false, at most."""
    return ALPHA * sum(claim.p is not None for claim in claims)


def corrected(claim: Claim, p: float | None) -> Ruling:
    """What a claim's ruling is at a corrected p-value."""
    return claim.ruling if p is not None and p <= ALPHA else "open"


def _judged(statement: Statement, found: Measure) -> Claim:
    if found.estimate is None or not math.isfinite(found.estimate.value):
        note = found.note or "it could not be measured here"
        return Claim(statement=statement, ruling="open", estimate=None, note=note, details=_details(found))
    estimate, note, ruling = found.estimate, found.note, rule(statement, found.estimate)
    p = None if estimate.n < MIN_SEEDS else p_value(statement, estimate)
    if estimate.low is None and estimate.high is None:
        note = " ".join(filter(None, (note, _WITHOUT.get(estimate.n, ""))))
    elif estimate.n < MIN_SEEDS:
        ruling = "open"
        few = (
            f"{estimate.n} {'value is' if estimate.n == 1 else 'values are'} too few to decide; {MIN_SEEDS} are needed."
        )
        note = " ".join(filter(None, (note, few)))
    return Claim(statement=statement, ruling=ruling, estimate=estimate, p=p, note=note, details=_details(found))


def _without(claim: Claim, diverged: tuple[str, ...], stopped: tuple[str, ...]) -> Claim:
    """The claim with a note on the trials that its study's means leave out."""
    said = [
        f"Left out, because it {why}: {', '.join(found)}."
        for why, found in (("diverged at a best rate", diverged), (f"was {STOPPED}", stopped))
        if found
    ]
    return claim.model_copy(update={"note": " ".join(filter(None, (claim.note, *said)))}) if said else claim


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


def _stopped(evidence: Evidence[Any]) -> tuple[str, ...]:
    return tuple(
        f"{trial.record.method} at {trial.record.learning_rate:.3g}, seed {trial.record.seed} ({condition.name})"
        for condition in evidence.conditions.values()
        for trial in condition.trials
        if trial.record.stopped
    )


def _searched(evidence: Evidence[Any]) -> Iterator[tuple[Condition, str]]:
    """Each method with a best rate to find, under each condition."""
    for condition in evidence.conditions.values():
        if condition.spec.learning_rates == "search":
            for method in condition.methods:
                yield condition, method.name
