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


def world(name: str, full: float, rank_4: float, rank_64: float, so: tuple[bool | None, ...]) -> World:
    """A world by the nats that each doubling of the batch costs its methods; `so` of the claims, the first ones."""
    cost = {"full": full, "lora:4": rank_4, "lora:64": rank_64}

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        return 1.5 - cost[method.name] * math.log2(group.batch_size / 4)

    def best(group: GroupSpec, method: AnyMethod, step: int) -> float:
        return math.log2(group.batch_size / 4)  # the rate grows with the batch, and so does where to look for it

    values = {
        "batch-gap": (rank_4 + rank_64) / 2 - full,
        "batch-small:full": full,
        "batch-small:lora": (rank_4 + rank_64) / 2,
    }
    values |= {"batch-rank-free": (rank_64 - rank_4) / abs(full)} if full else {}
    truths = {key: Truth(holds, value) for (key, value), holds in zip(values.items(), so, strict=True)}
    return World(name, QUESTION, truths, Nature(learned, best=best, jitter=lambda step: 1e-5 * math.log2(step)))


WORLDS = (
    # In order: gap, FullFT, LoRA, ranks. LoRA pays more, the higher rank a fifth of FullFT's cost more than the lower.
    world("as the post says", 0.10, 0.30, 0.32, (True, True, True, True)),
    world("LoRA pays less", 0.30, 0.20, 0.14, (False, True, True, True)),
    world("LoRA gains by large batches", 0.20, -0.09, -0.02, (False, True, False, False)),
    world("the higher rank pays less", 0.20, 0.30, 0.23, (True, True, True, False)),
    world("FullFT gains by large batches", -0.10, 0.02, 0.01, (True, False, True, True)),
    world("as much, at the bound between ranks", 0.20, 0.175, 0.225, (None, True, True, None)),
    world("for nothing", 0.0, 0.1, -0.1, (None, None, None)),
)
