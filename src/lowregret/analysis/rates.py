"""Ratios of best learning rates, from the fits of a condition's trials. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import Estimate
from lowregret.analysis.place import Place, mean_factor, middle_place
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
    fits, missing = fitted_rates(condition, names)
    if missing:
        return None, missing
    rate = formula_rate(model, condition.hidden_size)
    off = [Place(math.log2(rate)) - middle_place([fits[name][seed] for name in names]) for seed in shared_seeds(fits)]
    note = loose(condition, names)
    said = f"By the formula {rate:.2g}, with the power {formula_power(model):g}."
    return unless_loose(mean_factor(off), note), " ".join(filter(None, (said, note)))


def fitted_rates(
    condition: Condition, methods: Sequence[str], step: int | None = None
) -> tuple[dict[str, Mapping[int, Place]], str]:
    """(method → seed → its fitted best rate, ""); ({}, a note) where one has none.

    What is told of several ranks is of all of them, or it is not told.
    """
    bests = {name: condition.best(name, step) for name in methods}
    missing = [name for name, best in bests.items() if best is None or not best.fitted]
    if missing:
        return {}, f"A best rate is missing: {', '.join(missing)}."
    return {name: best.fitted for name, best in bests.items() if best is not None}, ""


def shared_seeds(fits: Mapping[str, Mapping[int, Place]]) -> list[int]:
    """The seeds that all of these methods have."""
    return sorted(set.intersection(*(set(found) for found in fits.values()))) if fits else []


def log_ratios(
    condition: Condition, methods: Sequence[str], step: int | None = None, other: str = FULL
) -> tuple[dict[int, Place], str]:
    """(seed → the fitted best rate of `methods`, geometric mean, over that of `other`; a note).

    Of the seeds that all of them have; of none, with a note that says why, where a method has no best rate.
    """
    if not methods:
        return {}, "No rank was asked for."
    fits, missing = fitted_rates(condition, (other, *methods), step)
    found = {
        seed: middle_place([fits[name][seed] for name in methods]) - fits[other][seed] for seed in shared_seeds(fits)
    }
    return found, missing or loose(condition, (other, *methods), step)


def ratio(
    condition: Condition, methods: Sequence[str], step: int | None = None, other: str = FULL
) -> tuple[Estimate | None, str, dict[str, float | None]]:
    """(the ratio of best rates, a note, the ratio of each seed); without an interval when a side of one is open."""
    ratios, note = log_ratios(condition, methods, step, other)
    estimate = unless_loose(mean_factor(list(ratios.values())), note)
    return estimate, note, {f"seed {seed}": 2.0**place.at for seed, place in ratios.items()}


def loose(condition: Condition, methods: Sequence[str], step: int | None = None) -> str:
    """A note when a best rate is not bracketed, which leaves what rests on it open; else ""."""
    bests = [condition.best(name, step) for name in methods]
    return LOOSE if any(best is None or not best.bracketed for best in bests) else ""


def unless_loose(estimate: Estimate | None, note: str) -> Estimate | None:
    """An estimate that rests on best rates; without its interval, so that it rules nothing, where a note says why."""
    return estimate if estimate is None or not note else estimate.without("low", "high")
