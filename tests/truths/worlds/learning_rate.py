"""Worlds of the question of learning rates (SCIENCE 3.2)."""

from __future__ import annotations

from typing import Any

from truths.simulator import Nature, Truth, World

QUESTION: dict[str, Any] = {"kind": "learning-rate", "ranks": (1, 4, 16), "steps": 8, "evals": 1}


def world(name: str, full: float, rank_1: float, rank_4: float, rank_16: float, so: tuple[bool, bool, bool]) -> World:
    """A world by the best rates of its methods, in doublings of one rate; `so` tells which of the claims are true."""
    best = {"full": full, "lora:1": rank_1, "lora:4": rank_4, "lora:16": rank_16}
    middle = (rank_4 + rank_16) / 2  # the geometric mean of the ranks from 4 up
    return World(
        name,
        QUESTION,
        {
            "rate-ratio": Truth(so[0], 2 ** (middle - full)),
            "rate-drift": Truth(so[1], 2 ** abs(rank_16 - rank_4)),
            "rate-rank-1": Truth(so[2], 2 ** (rank_1 - middle)),
        },
        Nature(lambda *_: 1.5, best=lambda group, method, step: best[method.name], drift=0.02),
    )


WORLDS = (
    # 6 times, by a factor of 1.15 between ranks, rank 1 at 0.7
    world("a low ratio", 0.2, 2.3, 2.7, 2.9, (True, True, True)),
    # 17 times, 1.5 between ranks, rank 1 at 1.2
    world("a high ratio", -0.2, 4.2, 3.6, 4.2, (True, True, False)),
    # 3.5 times, 2.3 between ranks, rank 1 at 0.6
    world("too low a ratio", 0.0, 1.0, 1.2, 2.4, (False, False, True)),
    # 24 times, higher ranks lower, rank 1 at 1.7
    world("too high a ratio", -0.7, 4.7, 4.2, 3.6, (False, True, False)),
)
