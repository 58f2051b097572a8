"""Worlds of the question of short runs (SCIENCE 3.3)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import FullFT
from lowregret.spec.study import GroupSpec
from truths.simulator import AnyMethod, Nature, Truth, World

QUESTION: dict[str, Any] = {
    "kind": "short-runs",
    "ranks": (16,),
    "lengths": (25, 50, 100, 200),
    "steps": 200,
}


def sway(group: GroupSpec, step: int) -> float:
    return 0.01 + 0.005 * math.log2(step / 100)


def world(name: str, full: float, lora: float, slope: float, so: tuple[bool | None, bool | None, bool | None]) -> World:
    """The best rates after 100 steps in doublings, FullFT's and LoRA's, and how much more LoRA's moves with a doubling.

    FullFT's moves as well, and seeds differ in how.
    """

    def best(group: GroupSpec, method: AnyMethod, step: int) -> float:
        longer = math.log2(step / 100)
        return full - 0.1 * longer if isinstance(method, FullFT) else lora + (slope - 0.1) * longer

    return World(
        name,
        QUESTION,
        {
            "short-ratio": Truth(so[0], 2 ** (lora - full)),
            "short-falls": Truth(so[1], slope),
            "short-towards": Truth(so[2], 2 ** (lora - full + slope)),
        },
        Nature(lambda group, method, step: 0.2 * math.log2(step), best=best, drift=sway),
    )


WORLDS = (
    world("12 times, falling", 0.2, 3.75, -0.3, (True, True, True)),
    world("20 times, falling", -0.3, 4.0, -0.3, (True, True, False)),
    world("7 times, rising", 0.2, 3.0, 0.3, (False, False, True)),
    world("7 times, falling", 0.2, 3.0, -0.3, (False, True, False)),
    world("30 times, falling", -0.9, 4.0, -0.3, (False, True, False)),
    world("10 times, steady", -0.1, -0.1 + math.log2(10), 0.0, (None, None, True)),
    world("15 times in the end", 0.1, 0.1 + math.log2(15) + 0.3, -0.3, (True, True, None)),
)
