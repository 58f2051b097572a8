"""Ratios of best learning rates, from the fits of a condition's trials. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import Estimate, exponential, mean
from lowregret.spec import LoRA

LOOSE = "A best rate is not bracketed."
LOW_RANK = 4
"""From this rank on the post has the best learning rate move by less than a factor of 2 (SCIENCE 3.2)."""
POWERS: Mapping[str, float] = MappingProxyType({"llama": 0.781, "qwen": 0.0775})
"""Part of a base's name → the power of the formula of learning rates (SCIENCE 3.11)."""


def formula_power(name: str) -> float:
    """That of the family whose name is in a base's, whatever folder or owner it has; the mean of the two for others,
    which the formula leaves out."""
    own = name.rstrip("/").rpartition("/")[2].lower()
    found = [power for family, power in POWERS.items() if family in own]
    return found[0] if found else statistics.fmean(POWERS.values())


def formula_rate(name: str, hidden_size: int) -> float:
    """LoRA's learning rate by the post: 5e-5 · M · (2000 / hidden)^p with M = 10 (SCIENCE 3.11)."""
    return 5e-5 * 10 * math.pow(2000 / hidden_size, formula_power(name))


def from_rank_4(condition: Condition) -> list[LoRA]:
    """The LoRAs for which the post has one best learning rate, by rank."""
    return [method for method in plain_loras(condition) if method.rank >= LOW_RANK]


def formula_over_found(condition: Condition, model: str) -> tuple[Estimate | None, str]:
    """(the formula's rate over LoRA's fitted best one, geometric mean over ranks from 4 up; a note)."""
    names = [method.name for method in from_rank_4(condition)]
    if not names:
        return None, "no rank from 4 up was asked for"
    bests = [best for name in names if (best := condition.best(name)) is not None and best.fitted]
    if len(bests) < len(names):
        return None, "a best rate is missing"
    rate = formula_rate(model, condition.hidden_size)
    seeds = sorted(set.intersection(*(set(best.fitted) for best in bests)))
    off = [math.log2(rate) - statistics.fmean(best.fitted[seed] for best in bests) for seed in seeds]
    note = loose(condition, names)
    said = f"By the formula {rate:.2g}, with the power {formula_power(model):g}."
    return unless_loose(exponential(mean(off)), note), " ".join(filter(None, (said, note)))


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
    return estimate if estimate is None or not note else estimate.without("low", "high")
