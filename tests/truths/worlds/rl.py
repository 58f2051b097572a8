"""Worlds of the question of reinforcement learning (SCIENCE 3.7 and 3.8)."""

from __future__ import annotations

from typing import Any

from lowregret.spec.method import FullFT, LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import AnyMethod, Nature, Truth, World

STEPS, GOOD = 8, 0.8
QUESTION: dict[str, Any] = {
    "kind": "rl",
    "ranks": (1, 4),
    "steps": STEPS,
    "evals": 2,
    "first_eval": 4,
    "good": GOOD,
    "tolerance": 0.02,
}
START, GAIN = 0.4, 0.5
"""Rewards: before training, and what FullFT adds."""
PARAMETERS = 100
"""Of rank 1; a parameter stores two bits."""


def world(name: str, regret: float, widths: dict[str, float], bits: float, holds: bool | None) -> World:
    """A world of rewards.

    Args:
        regret: what rank 1 lacks against FullFT; rank 4 is ahead.
        widths: doublings from each method's best rate to where it gains GOOD of what it gains there, on either side.
        bits: what a run of rank 1 could be taught, a share of what it can store.
    """

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        gain = GAIN if isinstance(method, FullFT) else GAIN - regret if method.rank == 1 else GAIN + 0.03
        return gain * step / STEPS

    def away(method: AnyMethod, gained: float, off: float, wobble: float) -> float:
        """The gain falls in a straight line on both sides, so that what lies between two rates is known as well."""
        return gained * (1 - (1 - GOOD) * abs(off) / (widths[method.name] + 0.02 * wobble))

    def step_bits(method: AnyMethod) -> float:
        own = bits * 2 * PARAMETERS / STEPS
        return own if method == LoRA(rank=1) else 3 * own

    wider = (widths["lora:1"] + widths["lora:4"]) / 2 - widths["full"]  # the geometric mean over ranks, on each side
    return World(
        name,
        QUESTION,
        {
            "rl-rank-1": Truth(holds, regret),
            "rl-range": Truth(holds, 2 ** (2 * wider)),
        },
        Nature(
            learned,
            best=lambda group, method, step: -2.0 if isinstance(method, FullFT) else 1.0,
            base=-START,
            away=away,
            reach=3,
            parameters=lambda method: PARAMETERS * method.rank if isinstance(method, LoRA) else 10**6,
            bits=step_bits,
        ),
    )


WORLDS = (
    world("as the post says", 0.015, {"full": 1.4, "lora:1": 1.5, "lora:4": 1.9}, 0.7, True),
    world("rank 1 is too small", 0.03, {"full": 1.4, "lora:1": 1.0, "lora:4": 1.4}, 1.4, False),
    world("at the bounds", 0.02, {"full": 1.4, "lora:1": 1.2, "lora:4": 1.6}, 0.7, None),
)
