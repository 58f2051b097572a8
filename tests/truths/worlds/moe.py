"""Worlds of the question of mixtures of experts (SCIENCE 3.6, 3.1, 3.13 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowregret.spec.method import LoRA
from lowregret.spec.study import GroupSpec
from truths.simulator import BASE, AnyMethod, Nature, Truth, World

RANK, ATTENTION = 16, 60
EQUAL = {"per-total": 40, "shared-outer": 13, "full-rank-each": 9}
QUESTION: dict[str, Any] = {
    "kind": "moe",
    "rank": RANK,
    "attention_rank": ATTENTION,
    "equal_parameters": EQUAL,
    "tolerance": 0.01,
    "steps": 8,
    "evals": 1,
}
LEARNED = 1.4
"""Nats, by FullFT."""
FULL_LOSS = BASE - LEARNED


@dataclass(frozen=True)
class Costs:
    """Of what FullFT learns, but for the regret."""

    attention: float
    """What attention alone lacks against the experts alone, with as many parameters."""
    gain: float
    """What attention and experts gain over the experts alone."""
    regret: float
    """What they lack against FullFT, of FullFT's loss."""
    equal: dict[str, float]
    """What they lack against each other convention with as many parameters."""
    undivided: float
    """What they lack against the whole rank for each expert."""
    per_total: float
    """What a division by all experts lacks against them."""


def nature(costs: Costs) -> Nature:
    both = LEARNED - costs.regret * FULL_LOSS
    experts = both - costs.gain * LEARNED
    found = {
        "full": LEARNED,
        f"lora:{RANK}:linear": both,
        f"lora:{RANK}:experts": experts,
        f"lora:{ATTENTION}:attention": experts - costs.attention * LEARNED,
        f"lora:{RANK}:attention": experts - 0.3 * LEARNED,
        f"lora:{RANK}:full-rank-each:linear": both + costs.undivided * LEARNED,
        f"lora:{RANK}:per-total:linear": both - costs.per_total * LEARNED,
        f"lora:{RANK}:shared-outer:linear": both - 0.3 * LEARNED,
    } | {f"lora:{EQUAL[name]}:{name}:linear": both + lacks * LEARNED for name, lacks in costs.equal.items()}

    def parameters(method: AnyMethod) -> int:
        """Alike, within a twentieth, where they are compared as such."""
        if not isinstance(method, LoRA):
            return 10**6
        equal = {RANK: 1000, **{rank: 1000 + rank for rank in EQUAL.values()}, ATTENTION: 1020}
        return equal[method.rank]

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        return found[method.name]

    return Nature(learned, parameters=parameters)


def world(name: str, holds: bool | None, costs: Costs) -> World:
    return World(
        name,
        QUESTION,
        {
            "moe-attention": Truth(holds, costs.attention),
            "moe-all": Truth(holds, costs.gain),
            "moe-regret": Truth(holds, costs.regret),
            **{f"moe-per-active:{other}": Truth(holds, lacks) for other, lacks in costs.equal.items()},
            "moe-undivided": Truth(holds, costs.undivided),
            "moe-per-total": Truth(holds, costs.per_total),
        },
        nature(costs),
    )


WORLDS = (
    world(
        "as the post says",
        True,
        Costs(
            attention=0.015,
            gain=0.035,
            regret=0.007,
            equal={"per-total": 0.012, "shared-outer": 0.013, "full-rank-each": 0.015},
            undivided=0.03,
            per_total=0.016,
        ),
    ),
    world(
        "the other way round",
        False,
        Costs(
            attention=0.007,
            gain=0.08,
            regret=0.014,
            equal={"per-total": 0.03, "shared-outer": 0.025, "full-rank-each": 0.035},
            undivided=0.07,
            per_total=0.006,
        ),
    ),
    world(
        "at the bounds",
        None,
        Costs(0.01, 0.05, 0.01, dict.fromkeys(EQUAL, 0.02), undivided=0.05, per_total=0.01),
    ),
)
