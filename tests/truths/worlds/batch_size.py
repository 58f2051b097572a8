"""Worlds of the question of batch sizes (SCIENCE 3.5)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.study import GroupSpec
from truths.simulator import AnyMethod, Nature, Truth, World

QUESTION: dict[str, Any] = {
    "kind": "batch-size",
    "ranks": (4, 64),
    "batches": (4, 8, 16),
    "examples": 64,
    "evals": 1,
}


def world(name: str, full: float, rank_4: float, rank_64: float, so: tuple[bool, bool, bool]) -> World:
    """A world by the nats that each doubling of the batch costs its methods."""
    cost = {"full": full, "lora:4": rank_4, "lora:64": rank_64}

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        return 1.5 - cost[method.name] * math.log2(group.batch_size / 4)

    def best(group: GroupSpec, method: AnyMethod, step: int) -> float:
        return math.log2(group.batch_size / 4)  # the rate grows with the batch, and so does where to look for it

    return World(
        name,
        QUESTION,
        {
            "batch-gap": Truth(so[0], (rank_4 + rank_64) / 2 - full),
            "batch-rank-free": Truth(so[1], (rank_64 - rank_4) / abs(full)),
            "batch-small": Truth(so[2], min(cost.values())),
        },
        Nature(learned, best=best),
    )


WORLDS = (
    # LoRA pays more, the higher rank a fifth of FullFT's cost more than the lower one
    world("as the post says", 0.10, 0.30, 0.32, (True, True, True)),
    world("LoRA pays less", 0.30, 0.20, 0.14, (False, True, True)),
    world("the higher rank pays more", 0.20, -0.03, 0.04, (False, False, False)),
    world("the higher rank pays less", 0.20, 0.30, 0.23, (True, False, True)),
    world("FullFT gains by large batches", -0.10, 0.02, 0.01, (True, True, False)),
)
