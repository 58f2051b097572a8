"""What the rank of a LoRA means for the experts of a mixture: the four conventions in use (SCIENCE 4)."""

from __future__ import annotations

from typing import Literal, get_args

Convention = Literal["per-active", "per-total", "shared-outer", "full-rank-each"]
"""per-active      every expert at rank / active experts (the post);
per-total       every expert at rank / total experts (PEFT's documentation);
shared-outer    every expert at the rank, the factor on the hidden side (A of gate and up, B of down) the same for all;
full-rank-each  every expert at the rank, nothing shared."""
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
DEFAULT_CONVENTION: Convention = "per-active"


def expert_rank(rank: int, convention: Convention, *, active: int, total: int) -> int:
    """The rank of one expert's matrices: a division rounds down, and the result is at least 1.

    So a rank below the number of experts that it is divided by buys more parameters than its share; `plan` shows both.
    """
    if convention == "per-active":
        return max(1, rank // max(active, 1))
    if convention == "per-total":
        return max(1, rank // max(total, 1))
    return rank
