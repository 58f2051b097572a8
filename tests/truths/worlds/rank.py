"""Worlds of the question of rank (SCIENCE 3.1)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import FullFT, LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import BASE, BEND, AnyMethod, Nature, Truth, World

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


def away(method: AnyMethod, learned: float, off: float, wobble: float) -> float:
    """At another rate the curve has another shape, not only another height."""
    return learned - BEND * off**2 * (1 + learned**2)


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
    bend = bend_of(straight)

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

    return Nature(
        learned,
        best=lambda group, method, step: 3.0 if isinstance(method, LoRA) else 0.0,
        away=away,
        jitter=lambda step: 1e-5 * bow(math.log2(step)),
    )


def bend_of(straight: float) -> float:
    """R² is a line's share of the squares of it and what is orthogonal: Σ(x - 3.5)² = 17.5, Σ bow² = 112/3."""
    return PACE * math.sqrt(17.5 * (1 / straight - 1) / (112 / 3))


def distance(straight: float, regret: float) -> float:
    """Of the highest rank's curve from FullFT's, mean over the evaluations, a share of what FullFT learns."""
    gaps = [abs(bend_of(straight) * (bow(x) - bow(6)) + regret * FULL_LOSS) for x in range(1, 7)]
    return sum(gaps) / 6 / (6 * PACE)


def world(
    name: str, regret: dict[int, float], straight: float, growth: float, fall: float, so: dict[str, bool | None]
) -> World:
    """`so` tells of the claims, without their size, which are true; sizes are alike in all of them."""
    known = {
        **{f"rank-coincide:{size}": Truth(so.get("coincide"), regret[size]) for size in regret},
        **{f"rank-follows:{size}": Truth(so.get("follows"), distance(straight, regret[size])) for size in regret},
        "rank-log-linear": Truth(so.get("log-linear"), (1 + straight) / 2),  # FullFT's R² is 1
        "rank-departure": Truth(so.get("departure"), growth),  # log2 of 2^first · r^growth
        "rank-no-floor": Truth(so.get("no-floor"), fall),  # that of the largest data
    }
    first = 2.0 if growth > 0 else 3.5
    truths = {key: truth for key, truth in known.items() if key.removeprefix("rank-").partition(":")[0] in so}
    return World(name, QUESTION, truths, nature(regret, straight, growth, first, {8: -fall / 3, 16: fall}))


# Without a regret the distance is the bow's alone, bend · 20/6 over 6 · PACE: 0.05 where the bend is 0.09 · PACE.
STRAIGHT_AT_BOUND = 1 / (1 + 0.09**2 * (112 / 3) / 17.5)
HOLD: dict[str, bool | None] = dict.fromkeys(("coincide", "follows", "log-linear", "departure", "no-floor"), True)
WORLDS = (
    world("as the post says", {8: 0.006, 16: 0.007}, straight=0.985, growth=0.75, fall=0.03, so=HOLD),
    world("behind on the way", {8: 0.007, 16: 0.006}, 0.94, 0.75, 0.03, so={**HOLD, "follows": False}),
    world(
        "the other way round",
        {8: 0.014, 16: 0.013},
        straight=0.8,
        growth=-0.5,
        fall=-0.03,
        so=dict.fromkeys(HOLD, False),
    ),
    world(
        "at the bounds",
        {8: 0.01, 16: 0.01},
        straight=0.9,
        growth=0.0,
        fall=0.0,
        so=dict.fromkeys(("coincide", "log-linear", "departure", "no-floor")),
    ),
    world("at the bound on the way", {8: 0.0, 16: 0.0}, STRAIGHT_AT_BOUND, 0.75, 0.03, so={"follows": None}),
)
