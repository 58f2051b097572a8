"""Ratios of best learning rates, from the fits of a condition's trials. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.fits import Estimate, exponential, mean

LOOSE = "A best rate is not bracketed."


def log_ratios(
    condition: Condition, methods: Sequence[str], step: int | None = None, other: str = FULL
) -> tuple[dict[int, float], str]:
    """(seed → log2 of the fitted best rate of `methods`, geometric mean, over that of `other`; a note).

    Where one of the two sides has one seed only, its fit serves all seeds of the other.
    """
    reference = condition.best(other, step)
    bests = [condition.best(name, step) for name in methods]
    known = [best for best in bests if best is not None and best.fitted]
    if reference is None or not reference.fitted or not known:
        return {}, "a best rate is missing"
    loose = not reference.bracketed or any(not best.bracketed for best in known)
    seeds = set.intersection(*(set(best.fitted) for best in (reference, *known)))
    found = {
        seed: sum(best.fitted[seed] for best in known) / len(known) - reference.fitted[seed] for seed in sorted(seeds)
    }
    return found, LOOSE if loose else ""


def ratio(
    condition: Condition, methods: Sequence[str], step: int | None = None, other: str = FULL
) -> tuple[Estimate | None, str, dict[str, float | None]]:
    """(the ratio of best rates, a note, the ratio of each seed); without an interval when a side of one is open."""
    ratios, note = log_ratios(condition, methods, step, other)
    estimate = unless_loose(exponential(mean(list(ratios.values()))), note)
    return estimate, note, {f"seed {seed}": 2.0**value for seed, value in ratios.items()}


def loose(condition: Condition, methods: Sequence[str]) -> str:
    """A note when a best rate is not bracketed, which leaves what rests on it open; else ""."""
    bests = [condition.best(name) for name in methods]
    return LOOSE if any(best is None or not best.bracketed for best in bests) else ""


def unless_loose(estimate: Estimate | None, note: str) -> Estimate | None:
    """An estimate that rests on best rates; without its interval, so that it rules nothing, where a note says why."""
    return estimate if estimate is None or not note else Estimate(value=estimate.value, n=estimate.n)
