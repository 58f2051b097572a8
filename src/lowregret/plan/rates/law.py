"""The law of LoRA's best learning rate by rank, size and family, and its constants. Torch-free.

It is fitted on a public sweep (SCIENCE 4: tulu3, batch 128, 780 steps, linear decay, LoRA on everything, alpha 32):
`python -m benchmarks.rate_law.fit SWEEP.csv` refits it and prints the constants that stand here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

RANK_LIMIT = 32
"""Ranks count as r / (1 + r / 32): the sweep ends at 128 and cannot tell a limit from 16 up from none (leave one model
out: 0.124 to 0.126 % given away), but elsewhere the best rate hardly rises from 16 to 256 (x1.14 on Qwen3-4B, SCIENCE
4) or from 16 to 128 (x1.09 on `tiny`): docs/findings/2026-11-29-rates-elsewhere.md."""
SIZE_UNIT = 1e10
SWEEP_BATCH, SWEEP_STEPS = 128, 780
SWEEP_RANKS = (1, 128)

_RELATIVES: Mapping[str, str] = {
    "llama": "llama",
    **dict.fromkeys(("qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"), "qwen3"),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe"), "qwen3.5"),
    **dict.fromkeys(("deepseek_v3", "kimi_k2"), "deepseek"),
}
"""transformers' model_type → the family that shares an offset. The names are exact: llama4 is another model."""


@dataclass(frozen=True)
class Law:
    """ln rate = ln level + rank_power · ln(r / (1 + r/32)) + size_power · ln(parameters / 1e10) + the family's offset.

    That is the best rate of LoRA in the sweep's setting, where the rate decays linearly to zero. The size is all
    parameters, experts too.
    """

    level: float
    """Rate at rank 1, 10 B parameters, a family that is not known."""
    rank_power: float
    size_power: float
    offsets: Mapping[str, float]
    """Family → what it adds to ln rate: shrunken towards 0, so that a family that is not known has 0."""
    width: float
    """Half the interval in ln rate that holds 90 % of the measured optima of models left out of the fit."""
    width_unknown: float
    """The same for models whose whole family was left out."""
    sizes: tuple[float, float]
    """Parameters of the smallest and the largest model of the sweep."""

    def log_rate(self, family: str, total: float, rank: float) -> float:
        """ln of the best rate of LoRA of this rank on everything, alpha 32, batch 128, 780 steps."""
        return (
            math.log(self.level)
            + self.rank_power * math.log(effective_rank(rank))
            + self.size_power * math.log(total / SIZE_UNIT)
            + self.offsets.get(family, 0.0)
        )


LAW = Law(
    level=0.000261,
    rank_power=0.294,
    size_power=-0.133,
    offsets={
        "deepseek": 0.0326,
        "gpt_oss": 0.0301,
        "llama": 0.147,
        "nemotron_h": 0.0647,
        "qwen3": 0.175,
        "qwen3.5": -0.449,
    },
    width=0.688,
    width_unknown=0.952,
    sizes=(1.23e9, 1.03e12),
)


def group_of(family: str) -> str:
    """The family whose offset a model_type shares; the model_type itself when it has no relatives in the sweep."""
    return _RELATIVES.get(family, family)


def effective_rank(rank: float) -> float:
    """The rank that the law counts with; about `rank` while that is small, never above `RANK_LIMIT`."""
    return rank / (1 + rank / RANK_LIMIT)
