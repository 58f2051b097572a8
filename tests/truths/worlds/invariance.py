"""Worlds of the question of invariance (SCIENCE 3.10)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import DEFAULT_ALPHA, LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import AnyMethod, Nature, Truth, World

STEPS = 17
QUESTION: dict[str, Any] = {"kind": "invariance", "steps": STEPS, "evals": 1}
LEARNED = 1.5
"""Nats, by the plain run from its first step to its last."""


def world(name: str, same: float, times: float, holds: bool | None) -> World:
    """Runs that SCIENCE 3.10 says are the same lie apart by `same` of what is learned, others by `times` that."""

    def apart(method: LoRA) -> float:
        if method == LoRA(rank=method.rank):
            return 0.0
        # the two effective degrees of freedom: α · init_A · LR_B, and init_A / LR_A
        slope = method.alpha * method.init_scale * method.b_rate / DEFAULT_ALPHA
        moved = method.init_scale / method.a_rate
        if math.isclose(slope, 1) and math.isclose(moved, 1):
            return same if method.b_rate > 2 else -same / 2  # the largest of several
        return same * times * (1 if max(slope, moved) < 3 else 1.7)  # the least of several

    def train(group: GroupSpec, method: AnyMethod, step: int) -> float:
        assert isinstance(method, LoRA)
        past = (step - 1) / (STEPS - 1)
        hump = 1 - abs(2 * past - 1)  # runs are apart in their middle, and end together
        return LEARNED * (past + apart(method) * hump)

    return World(
        name,
        QUESTION,
        {"invariance-same": Truth(holds, same), "invariance-moved": Truth(holds, times)},
        Nature(lambda *_: LEARNED, train=train),
    )


WORLDS = (
    world("as the algebra says", same=0.007, times=15.0, holds=True),
    world("transforms matter", same=0.015, times=7.0, holds=False),
    world("at the bounds", same=0.01, times=10.0, holds=None),
)
