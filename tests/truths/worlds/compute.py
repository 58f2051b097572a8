"""Worlds of the question of compute (SCIENCE 3.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from truths.simulator import Truth, World

NARROW, WIDE = 64, 128
RANKS = (1, 16, 64)
"""The last is above WIDE / 6, where LoRA's step is no longer the cheaper one: no claim is about it."""
QUESTION: dict[str, Any] = {"kind": "compute", "widths": (NARROW, WIDE), "ranks": RANKS}
TURNS, FLUTTER = (1.0, 1.1, 0.9), (-0.01, 0.0, 0.01)
"""Seconds of FullFT's step in each turn, and doublings by which LoRA's differs from its ratio: in all by none."""
FULL_BYTES = 1000


def timing(width: int, ratio: Mapping[int, float], off: Mapping[int, float]) -> dict[str, Any]:
    """Times whose ratio is `ratio`, and a theory from which it deviates by a share `off`."""
    return {
        "width": width,
        "full_seconds": list(TURNS),
        "lora_seconds": {
            str(rank): [ratio[rank] * turn * 2**shift for turn, shift in zip(TURNS, FLUTTER, strict=True)]
            for rank in RANKS
        },
        "theory": {str(rank): ratio[rank] / (1 + off[rank]) for rank in RANKS},
        "full_bytes": FULL_BYTES,
        "lora_bytes": {str(rank): round(FULL_BYTES / 2 * (1 + (rank - 1) / 100)) for rank in RANKS},
    }


def world(
    name: str, share: float, off: tuple[float, float], so: tuple[bool | None, bool | None, bool | None], narrow: float
) -> World:
    """A world by rank 1's time over FullFT's, and the deviations of ranks 1 and 16, on the wide base.

    On the narrow one, which no claim is about, the time is `narrow`.
    """
    ratio = {1: share, 16: 1.2 * share, 64: 2 * share}
    wide = timing(WIDE, ratio, dict(zip(RANKS, (*off, 0.5), strict=True)))
    other = timing(NARROW, dict.fromkeys(RANKS, narrow), dict.fromkeys(RANKS, 0.5))
    return World(
        name,
        QUESTION,
        {
            "compute-share": Truth(so[0], share),
            "compute-theory:1": Truth(so[1], 1 + off[0]),
            "compute-theory:16": Truth(so[2], 1 + off[1]),
        },
        timings=(other, wide),
    )


WORLDS = (
    world("a cheap step", 0.65, (0.05, -0.10), (True, True, True), narrow=1.5),
    world("a dear step", 0.75, (0.12, 0.03), (True, True, True), narrow=1.5),
    world("too cheap", 0.5, (0.05, -0.25), (False, True, False), narrow=0.4),
    world("too dear", 0.95, (0.2, 0.2), (False, False, False), narrow=0.4),
    world("cheaper than counted", 0.65, (-0.2, 0.1), (True, False, True), narrow=0.4),
    world("at the bounds", 0.8, (0.15, -0.15), (None, None, None), narrow=0.4),
)
