"""Worlds of the question of learning rates (SCIENCE 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lowregret.spec import LoRA
from truths.simulator import RATE, AnyMethod, Nature, Truth, World, parabola

FORMULA, POWER = 5e-4, 0.781
"""The post's for LoRA on a Llama: FORMULA · (2000 / hidden)^POWER."""
QUESTION: dict[str, Any] = {"kind": "learning-rate", "model": "llama", "ranks": (1, 4, 16), "steps": 8, "evals": 1}


def world(
    name: str,
    full: float,
    rank_1: float,
    rank_4: float,
    rank_16: float,
    hidden: float,
    so: tuple[bool | None, bool | None, bool | None, bool | None],
    away: Callable[[AnyMethod, float, float, float], float] = parabola,
) -> World:
    """A world by the best rates of its methods, in doublings of one rate, and by the hidden size of a Llama.

    `so` tells which of the claims are true.
    """
    best = {"full": full, "lora:1": rank_1, "lora:4": rank_4, "lora:16": rank_16}
    middle = (rank_4 + rank_16) / 2  # the geometric mean of the ranks from 4 up
    return World(
        name,
        QUESTION,
        {
            "rate-ratio": Truth(so[0], 2 ** (middle - full)),
            "rate-drift": Truth(so[1], 2 ** (rank_16 - rank_4)),
            "rate-rank-1": Truth(so[2], 2 ** (rank_1 - middle)),
            "rate-formula": Truth(so[3], FORMULA * (2000 / hidden) ** POWER / (RATE * 2**middle)),
        },
        Nature(
            lambda *_: 1.5,
            best=lambda group, method, step: best[method.name],
            drift=lambda group, step: 0.02,
            hidden_size=lambda group: hidden,
            away=away,
        ),
    )


def walled(method: AnyMethod, learned: float, off: float, wobble: float) -> float:
    """Half a doubling above its best rate rank 16 unlearns half: where its bottom lies is known to half a doubling."""
    return parabola(method, learned / 2 if off > 0.5 and method == LoRA(rank=16) else learned, off, wobble)


def hidden_for(ratio: float, middle: float) -> float:
    """The hidden size at which the formula is `ratio` times the best rate."""
    return float(2000 / (ratio * RATE * 2**middle / FORMULA) ** (1 / POWER))


MIDDLE = 0.1 + math.log2(5)
WORLDS = (
    # 6 times, by a factor of 1.15 between ranks, rank 1 at 0.7, the formula half as high again
    world("a low ratio", 0.2, 2.3, 2.7, 2.9, hidden_for(1.5, 2.8), (True, True, True, True)),
    # 17 times, 1.5 between ranks, rank 1 at 1.2, the formula at 0.4
    world("a high ratio", -0.2, 4.2, 3.6, 4.2, hidden_for(0.4, 3.9), (True, True, False, False)),
    # 3.5 times, 2.3 between ranks, rank 1 at 0.6, the formula at 3
    world("too low a ratio", 0.0, 1.0, 1.2, 2.4, hidden_for(3.0, 1.8), (False, False, True, False)),
    # 24 times, higher ranks lower, rank 1 at 1.7, the formula at 0.7
    world("too high a ratio", -0.7, 4.7, 4.2, 3.6, hidden_for(0.7, 3.9), (False, True, False, True)),
    # higher ranks lower by more than a factor of 2
    world("higher ranks far lower", -0.3, 3.9, 4.1, 2.9, hidden_for(0.7, 3.5), (True, False, False, True)),
    # Where rank 16 has a wall, its rate is known to a factor of √2, and the mean of the ranks from 4 up to 1.2.
    # 8 times, no factor between ranks, rank 1 at a half
    world("a wall above", 0.0, 2.0, 3.0, 3.0, hidden_for(1.0, 3.0), (True, True, True, True), walled),
    # 1.4 times, 2 between ranks may be 1.4 or 2.8, rank 1 at 0.7
    world("a wall, and too low", 0.0, 0.0, 0.0, 1.0, hidden_for(3.0, 0.5), (False, None, True, False), walled),
    # 5.3 times may be 4.4, rank 1 at 1 may be 1.2, the formula's 1.8 may be 2.1
    world("a wall at the bounds", 0.6, 3.0, 3.0, 3.0, hidden_for(1.8, 3.0), (None, True, None, None), walled),
    # 5 times, a factor of 2 between ranks, rank 1 at their mean, the formula at 2
    world("at the bounds", 0.1, MIDDLE, MIDDLE - 0.5, MIDDLE + 0.5, hidden_for(2.0, MIDDLE), (None, None, None, None)),
)
