"""The best learning rate where a policy gradient trains, as far as three measurements tell. Torch-free.

Sampled rewards are a noisier teacher than examples, and too high a rate does not lose a little, it destroys the policy
(accuracy 0 at four times the best rate). So the rate is lower than that of supervised training, and moves less with
rank. What the batch does to it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lowregret.plan.rates.law import LAW, effective_rank, group_of
from lowregret.plan.rates.setting import size_terms
from lowregret.plan.rates.term import Term
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA

LEVEL = 0.13
"""Rank 1's best rate over that of the sweep's setting: 0.13 on Qwen3-1.7B (MATH, 50 steps of 32 x 8 samples), 0.10 on
SmolLM2-135M (sums, 40 steps of 4 x 8), 0.27 on `tiny` (chains of sums, 60 steps of 16 x 8)."""
RANK_POWER = 0.05
"""Rank 256 wants 1.4 times rank 1's rate on Qwen3-1.7B; on SmolLM2 and `tiny` no rank differs from another."""
FULL_RATIO = 4.5
"""LoRA's best rate at rank 32 over FullFT's: 4 on Qwen3-1.7B. It is about 30 on SmolLM2, whose smallness raises
LoRA's best rate but not FullFT's, and 2.3 on `tiny`."""
STEPS_POWER, SWEPT_STEPS = -1 / 4, 50
"""The longer a run, the likelier a rate destroys it on the way: on Qwen3-1.7B 1e-4 is safe for 50 steps, on
Qwen3-4B-Instruct it peaks at step 43 and is at 0 by step 60. The power is our assumption."""
_FULL_RANK = 32
_SPREAD, _FULL_SPREAD = math.log(3.0), math.log(5.0)
_FOUND = "docs/findings/2026-11-29-rates-elsewhere.md"


_ABOUT = "training by reward"


def by_reward(terms: Sequence[Term]) -> bool:
    """Whether a rate is one for a policy gradient."""
    return any(term.about == _ABOUT for term in terms)


def reward_terms(method: FullFT | LoRA, shapes: Shapes, steps: int) -> Iterator[Term]:
    """From the sweep's law at rank 1 to a policy gradient."""
    rank = method.rank if isinstance(method, LoRA) else _FULL_RANK
    yield Term(
        LAW.log_rate(group_of(shapes.family), shapes.total, 1) + math.log(LEVEL * effective_rank(rank) ** RANK_POWER),
        _SPREAD,
        "measured",
        _ABOUT,
        f"By policy gradient the best rate is {LEVEL:g} of that of supervised training in the sweep's setting at rank "
        f"1, and goes by rank to the power {RANK_POWER:g}, whatever the batch (found with Qwen3-1.7B, "
        f"SmolLM2-135M and tiny: {_FOUND}). Rates four times as high destroyed the policy: start low.",
    )
    if steps > SWEPT_STEPS:
        factor = (steps / SWEPT_STEPS) ** STEPS_POWER
        yield Term(
            math.log(factor),
            abs(math.log(factor)),
            "assumed",
            "its length",
            f"{steps:,} steps where the sweep had {SWEPT_STEPS}: x{factor:.2f}, as longer runs are destroyed by lower "
            f"rates ({_FOUND}); the power {STEPS_POWER:g} is our assumption.",
        )
    if isinstance(method, LoRA):
        yield from size_terms(shapes.total)
        return
    yield Term(
        -math.log(FULL_RATIO),
        _FULL_SPREAD,
        "measured",
        "FullFT's ratio by reward",
        f"FullFT's best rate is LoRA's at rank {_FULL_RANK} over {FULL_RATIO:g} there: 4 found on Qwen3-1.7B, about "
        f"30 on SmolLM2-135M, 2.3 on tiny ({_FOUND}).",
    )
