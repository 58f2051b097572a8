"""Worlds of the question of capacity (SCIENCE 3.8 and 5)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import FullFT, LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import TOKENS, AnyMethod, Nature, Truth, World

STEPS, HALF = 64, 32
QUESTION: dict[str, Any] = {
    "kind": "capacity",
    "ranks": (1, 2, 4, 16),
    "people": 4,
    "steps": STEPS,
}
FACTS = 1000.0
"""Bits."""
PER_BIT = math.log(2) / TOKENS
"""Nats per token of the held-out set that asks for the facts."""
FULL_RANK = 16
"""It stores nearly all, so that it says nothing about what a rank can hold."""


def world(
    name: str,
    stored: float,
    growth: float,
    per_parameter: float,
    teach: float,
    elicit: float,
    so: tuple[bool | None, ...],
) -> World:
    """A world of capacity.

    Args:
        stored, growth: rank r stores stored · r^growth bits.
        per_parameter: bits a parameter of rank 1, which holds most for each.
        teach, elicit: what the excess description length per token rises by when the tokens are e times as many.
    """
    parameters = stored / per_parameter  # of rank 1; those of rank r are r times as many

    def held(method: AnyMethod) -> float:
        if isinstance(method, FullFT):
            return 0.97 * FACTS
        return 0.95 * FACTS if method.rank == FULL_RANK else stored * method.rank**growth

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        if group.condition == "facts":
            return PER_BIT * held(method) * math.log(step) / math.log(STEPS)
        return 0.3 * math.log(1 + step)

    def excess(group: GroupSpec, step: int) -> float:
        """EDL per token, bits. In the first half of the epoch, which no claim is about, it runs the other way."""
        slope = {"teach": teach, "elicit": elicit}.get(group.condition, 0.0)
        return 1 + slope * abs(math.log(step / HALF))

    def mean_train(group: GroupSpec, method: AnyMethod, step: int) -> float:
        """EDL is what the steps so far lost on average, minus the held-out loss now; in terms of what is learned."""
        return learned(group, method, step) - math.log(2) * excess(group, step)

    def train(group: GroupSpec, method: AnyMethod, step: int) -> float:
        before = (step - 1) * mean_train(group, method, step - 1) if step > 1 else 0.0
        return step * mean_train(group, method, step) - before

    return World(
        name,
        QUESTION,
        {
            "capacity-recalled": Truth(so[0], per_parameter),
            "capacity-rank": Truth(so[1], growth),
            "capacity-teach": Truth(so[2], teach),
            "capacity-elicit": Truth(so[3], elicit),
        },
        Nature(
            learned,
            base=PER_BIT * FACTS,
            train=train,
            jitter=lambda step: 1e-6 * math.log(step),
            parameters=lambda method: round(parameters * method.rank) if isinstance(method, LoRA) else 10**6,
            fact_bits=FACTS,
        ),
    )


WORLDS = (
    world("1.3 bits", 100.0, 0.7, 1.3, teach=0.2, elicit=-0.15, so=(True, True, True, True)),
    world("2.6 bits", 200.0, 0.5, 2.6, teach=0.1, elicit=-0.2, so=(True, True, True, True)),
    world("too few bits", 300.0, -0.3, 0.7, teach=-0.2, elicit=0.15, so=(False, False, False, False)),
    world("too many bits", 400.0, 0.4, 4.0, teach=0.3, elicit=-0.1, so=(False, True, True, True)),
    world("at the bounds", 300.0, 0.0, 3.0, teach=0.0, elicit=0.0, so=(None, None, None, None)),
)
