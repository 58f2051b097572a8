"""Which learning rate to start from, and how sure that is, before anything is measured. Torch-free.

What a public sweep tells is the law of law.py. What the sweep does not vary (full fine-tuning, targets, alpha, batch,
length, RL) is a term of its own, and each says where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lowregret.errors import SpecError
from lowregret.plan.rates.law import LAW, SWEEP_RANKS, group_of
from lowregret.plan.rates.method import (
    FULL_REFERENCE_RANK,
    full_terms,
    length_terms,
    lora_terms,
    narrow_terms,
    optimizer_terms,
    short_terms,
)
from lowregret.plan.rates.reward import reward_terms
from lowregret.plan.rates.setting import run_terms, schedule_terms, size_terms
from lowregret.plan.rates.term import Term
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA
from lowregret.spec.optimizer import Schedule


@dataclass(frozen=True)
class RatePrior:
    """A learning rate to start from."""

    value: float
    low: float
    high: float
    """The measured best rate is meant to lie from low to high in about nine cases of ten."""
    terms: tuple[Term, ...]
    """What it is made of."""

    @property
    def sources(self) -> tuple[str, ...]:
        """One sentence for each term, with where it comes from."""
        return tuple(term.source for term in self.terms)


def recommend(
    method: FullFT | LoRA,
    shapes: Shapes,
    *,
    batch_size: int,
    steps: int,
    schedule: Schedule = "constant",
    objective: Literal["sft", "rl"] = "sft",
) -> RatePrior:
    """The best learning rate as far as it can be told beforehand, with an interval.

    Args:
        method: full fine-tuning, or a LoRA with its rank, alpha, targets and variants.
        shapes: the model; its `family`, `hidden_size` and `total` are used.
        batch_size: examples a step.
        steps: optimizer steps of the whole run.
        schedule: of the learning rate; the value is its peak.
        objective: sft, or rl by policy gradient.

    At the sweep's own setting (linear decay, batch 128, 780 steps) the value is that of `LAW`, which the yardstick is
    measured with. Elsewhere every term adds to ln rate, and the half-widths add up as a root of squares
    (docs/findings/2026-11-29-rates-elsewhere.md). SpecError: a batch or a length below 1.
    """
    for name, given in (("batch_size", batch_size), ("steps", steps)):
        if given < 1:
            raise SpecError(f"{name}: {given} is too small for a learning rate. Give 1 or more.")
    if objective == "rl":
        terms = list(reward_terms(method, shapes, steps))
    else:
        terms = [*_base_terms(method, shapes), *size_terms(shapes.total)]
        terms += [*schedule_terms(schedule), *run_terms(batch_size, steps), *length_terms(method, steps)]
        terms += full_terms() if isinstance(method, FullFT) else short_terms(method, steps)
    terms += lora_terms(method, shapes) if isinstance(method, LoRA) else narrow_terms(shapes)
    terms += optimizer_terms(method)
    middle = sum(term.shift for term in terms)
    half = math.hypot(*(term.spread for term in terms))
    return RatePrior(math.exp(middle), math.exp(middle - half), math.exp(middle + half), tuple(terms))


def _base_terms(method: FullFT | LoRA, shapes: Shapes) -> Iterator[Term]:
    """What the sweep tells: rank, size, family."""
    rank = method.rank if isinstance(method, LoRA) else FULL_REFERENCE_RANK
    group, total = group_of(shapes.family), shapes.total
    known = group in LAW.offsets
    family = (
        f"the family {group} shifts it by x{math.exp(LAW.offsets[group]):.2f}"
        if known
        else f"the family {shapes.family} is not in it, so the interval is wider"
    )
    yield Term(
        LAW.log_rate(group, total, rank),
        LAW.width if known else LAW.width_unknown,
        "fitted" if known else "measured",
        "rank, size and family" if known else "rank and size, without the family",
        "Fitted on the public tulu3 sweep of 23 models (docs/science.md 4; "
        f"docs/findings/2026-11-29-rates-elsewhere.md): {LAW.level:.3g} for rank 1 and "
        f"10 B parameters, with rank to the power {LAW.rank_power:.2f} (flattening above 32), parameters to the power "
        f"{LAW.size_power:.2f}; {family}.",
    )
    if rank > SWEEP_RANKS[1]:
        yield Term(
            0.0,
            LAW.rank_power * math.log(rank / SWEEP_RANKS[1]),
            "assumed",
            "a rank above the sweep's",
            f"The sweep ends at rank {SWEEP_RANKS[1]}: the interval also holds the rate there.",
        )
