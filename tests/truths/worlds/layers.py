"""Worlds of the question of layers (SCIENCE 3.6)."""

from __future__ import annotations

from typing import Any

from lowregret.spec.method import FullFT
from lowregret.spec.study import GroupSpec
from truths.simulator import AnyMethod, Nature, Truth, World

QUESTION: dict[str, Any] = {"kind": "layers", "ranks": (4, 16), "steps": 8, "evals": 1}
LEARNED = 1.5
"""Nats, by FullFT."""


def world(name: str, attention: dict[int, float], both: dict[int, float], holds: bool | None) -> World:
    """A world by rank of the MLP.

    Args:
        attention: what attention alone at twice the rank lacks against the MLP, a share of what FullFT learns.
        both: what the two together gain over the MLP, likewise.
    """

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        if isinstance(method, FullFT):
            return LEARNED
        mlp = 0.9
        share = {
            ("mlp",): mlp,
            ("attention", "mlp"): mlp + both.get(method.rank, 0.0),
            ("attention", "mlp", "unembedding"): mlp + 0.09,
        }
        # of attention alone the lower ranks of a pair are worse still, and no claim is about them
        alone = {2 * rank: mlp - lacks for rank, lacks in attention.items()}
        return LEARNED * share.get(method.targets, alone.get(method.rank, mlp - 0.2))

    return World(
        name,
        QUESTION,
        {
            **{f"layers-attention:{rank}": Truth(holds, lacks) for rank, lacks in attention.items()},
            **{f"layers-all:{rank}": Truth(holds, gains) for rank, gains in both.items()},
        },
        Nature(learned),
    )


WORLDS = (
    world("the MLP is what counts", {4: 0.015, 16: 0.017}, {4: 0.03, 16: 0.035}, True),
    world("attention counts too", {4: 0.008, 16: 0.007}, {4: 0.08, 16: 0.07}, False),
    world("at the bounds", {4: 0.01, 16: 0.01}, {4: 0.05, 16: 0.05}, None),
)
