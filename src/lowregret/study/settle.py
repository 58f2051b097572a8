"""When a question needs no more seeds, and which question gains most by one. Pure, of claims."""

from __future__ import annotations

import math

from lowregret.questions.claim import Statement
from lowregret.questions.judge import ALPHA, MIN_SEEDS, Claim, Claims


def level(seeds: int) -> float:
    """The p-value that settles a claim when it is looked at with so many seeds.

    Whoever looks again and again, and stops when a claim rules, rules falsely more often than the interval says. The
    i-th look, the first with MIN_SEEDS, is given α / (i (i + 1)): all looks together have α, however many there are
    (Bonferroni).
    """
    look = max(1, seeds - MIN_SEEDS + 1)
    return ALPHA / (look * (look + 1))


def is_settled(claims: Claims, seeds: int) -> bool:
    """Whether every claim has ruled at the level of this look, so that further seeds are spared."""
    if seeds < MIN_SEEDS or not claims.claims:
        return False
    return all(_is_settled(claim, seeds) for claim in claims.claims)


def openness(claims: Claims, seeds: int) -> float:
    """How wide the widest interval of a claim that is not settled is, in units of what it would have to be to rule: the
    half of it on the side of the nearest bound over the distance to that bound. Below 1 all claims have ruled, but not
    at the level of this look: whoever adds seeds until they rule, and stops there, rules falsely too often. Infinite
    where an interval is missing for want of seeds; 0 where more seeds would change nothing."""
    return max((_openness(claim) for claim in claims.claims if not _is_settled(claim, seeds)), default=0.0)


def _is_settled(claim: Claim, seeds: int) -> bool:
    return claim.ruling != "open" and claim.p is not None and claim.p <= level(seeds)


def _openness(claim: Claim) -> float:
    found = claim.estimate
    if found is None:
        return 0.0
    if found.n < MIN_SEEDS or not found.known:
        return math.inf if found.n < MIN_SEEDS else 0.0
    bound = _nearest(claim.statement, found.value)
    end = found.low if bound is not None and bound < found.value else found.high
    if bound is None or end is None:
        return 0.0
    distance = abs(found.value - bound)
    return abs(end - found.value) / distance if distance else math.inf


def _nearest(statement: Statement, value: float) -> float | None:
    bounds = [bound for bound in (statement.low, statement.high) if bound is not None]
    return min(bounds, key=lambda bound: abs(bound - value), default=None)
