"""What one look at a verdict found. Pure and torch-free."""

from __future__ import annotations

import math

from lowregret.runs.decision import Look
from lowregret.runs.verdict import Verdict
from lowregret.study.decide.contest import Contest, Judge


def looked(judged: Judge, verdict: Verdict, contest: Contest) -> Look:
    """The look that a verdict was, `judge` having ruled by an interval at 1 − error.

    It settles nothing where the search that it would rest on is not complete, or no error was left for it.
    """
    lora = "" if verdict.lora is None else verdict.lora.name
    settled = judged.error > 0 and contest.supports(verdict.verdict, lora)
    return Look(
        seeds=judged.seeds,
        method=lora,
        error=judged.error,
        regret=verdict.regret_nats,
        interval=_bounds(verdict, judged.error),
        ruling=verdict.verdict if settled else "inconclusive",
    )


def _bounds(verdict: Verdict, error: float) -> tuple[float, float] | None:
    """As `Interval.at` has them."""
    parts, value = verdict.interval, verdict.regret_nats
    if parts is None or value is None or verdict.ci95 is None or not error > 0:
        return None
    from scipy.special import stdtrit  # here, since importing scipy takes a while

    total = parts.example_variance + parts.seed_variance + parts.rate_variance
    freedom = math.inf if parts.degrees_of_freedom is None else parts.degrees_of_freedom
    half = float(stdtrit(freedom, 1 - error / 2)) * math.sqrt(total)
    return value - half, value + half
