"""Worlds of the question of early training (SCIENCE 3.4)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import AnyMethod, Nature, Truth, World

EARLY, LAST = 8, 32
QUESTION: dict[str, Any] = {"kind": "early", "ranks": (1, 4, 16), "steps": LAST, "evals": 6}
MIDDLE = 0.3
"""Nats that the middle rank learns with a doubling of the steps; the others lie evenly around it."""


def world(name: str, share: float, growth: float, holds: bool | None, early: int = EARLY) -> World:
    """Ranks lie apart by `share` of what was learned by the early step, and by `growth` times that at the end.

    That is their standard deviation: places of ±√1.5 and 0 have one of 1. In the logarithm of the steps all curves are
    straight, so that they are known between evaluations too.
    """
    apart = share * MIDDLE * math.log2(early)
    growing = (growth - 1) / math.log2(LAST / early)

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        assert isinstance(method, LoRA)
        place = {1: -math.sqrt(1.5), 4: 0.0, 16: math.sqrt(1.5)}[method.rank]
        apart_now = apart * (1 + growing * math.log2(step / early))
        return MIDDLE * math.log2(step) + place * apart_now

    return World(
        name,
        {**QUESTION, "early_steps": early},
        {"early-same": Truth(holds, share), "early-grow": Truth(holds, growth)},
        Nature(learned),
    )


WORLDS = (
    world("alike at first, then apart", share=0.014, growth=3.0, holds=True),
    world("alike at a step without an evaluation", share=0.015, growth=2.5, holds=True, early=6),
    world("apart from the start", share=0.03, growth=1.5, holds=False),
    world("at the bounds", share=0.02, growth=2.0, holds=None),
)
