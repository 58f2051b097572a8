"""Worlds of the question of rank (SCIENCE 3.1)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import FullFT, LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import BASE, AnyMethod, Nature, Truth, World

TOP, LAST = 64, 64
"""The highest rank, and the last step: x = log2(step) is 1 to 6 at the evaluations."""
PACE = 0.2
"""Nats that a doubling of the steps teaches FullFT, whose curve is straight."""
FULL_LOSS = BASE - PACE * 6
QUESTION: dict[str, Any] = {
    "kind": "rank",
    "ranks": (1, 2, 4, TOP),
    "sizes": (8, 16),
    "steps": LAST,
    "evals": 6,
    "tolerance": 0.01,
}


def size_of(group: GroupSpec) -> int:
    return int(group.condition.removeprefix("size-"))


def bow(x: float) -> float:
    """A parabola that is orthogonal to lines over x = 1, …, 6: its values 10/3, -2/3, -8/3, … have Σ = Σ bow·x = 0."""
    return (x - 3.5) ** 2 - 35 / 12


def nature(regret: dict[int, float], straight: float, growth: float, first: float, fall: dict[int, float]) -> Nature:
    """A world of rank.

    Args:
        regret: size → what the highest rank loses against FullFT at the end, a share of FullFT's loss.
        straight: R² of the highest rank's curve.
        growth, first: rank r leaves at step 2^first · r^growth, a little sooner with the small size and later with the
            large one.
        fall: size → nats by which the loss of rank 1 falls over the last doubling.
    """
    # Of a line and what is orthogonal to it R² is the line's share of the squares: Σ(x - 3.5)² = 17.5, Σ bow² = 112/3.
    bend = PACE * math.sqrt(17.5 * (1 / straight - 1) / (112 / 3))

    def top(size: int, x: float) -> float:
        return PACE * x - bend * (bow(x) - bow(6)) - regret[size] * FULL_LOSS

    def low(size: int, rank: int, x: float) -> float:
        # A twentieth below what the top has learned, where a rank counts as having left, at the step of departure; from
        # there on a twentieth more with each doubling.
        departs = first + growth * math.log2(rank) + (-0.1 if size == 8 else 0.1)
        return top(size, x) * (1 - max(0.0, 0.05 * (1 + x - departs)))

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        size, x = size_of(group), math.log2(step)
        if isinstance(method, FullFT):
            return PACE * x
        if method.rank == TOP:
            return top(size, x)
        if method.rank == 1 and step == LAST:
            return low(size, 1, x - 1) + fall[size]
        return low(size, method.rank, x)

    return Nature(learned, best=lambda group, method, step: 3.0 if isinstance(method, LoRA) else 0.0)


WORLDS = (
    World(
        "as the post says",
        QUESTION,
        {
            "rank-coincide": Truth(True, 0.007),  # the larger of the two regrets
            "rank-log-linear": Truth(True, (1 + 0.94) / 2),  # FullFT's R² is 1, the highest rank's is given
            "rank-departure": Truth(True, 0.75),  # log2 of 2^first · r^growth grows by `growth` with log2 r
            "rank-no-floor": Truth(True, 0.03),  # that of the largest data
        },
        nature({8: 0.002, 16: 0.007}, straight=0.94, growth=0.75, first=2.0, fall={8: -0.01, 16: 0.03}),
    ),
    World(
        "the other way round",
        QUESTION,
        {
            "rank-coincide": Truth(False, 0.014),
            "rank-log-linear": Truth(False, (1 + 0.8) / 2),
            "rank-departure": Truth(False, -0.5),
            "rank-no-floor": Truth(False, -0.03),
        },
        nature({8: 0.014, 16: 0.004}, straight=0.8, growth=-0.5, first=3.5, fall={8: 0.01, 16: -0.03}),
    ),
)
