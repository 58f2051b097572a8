"""Worlds of the question of LoRA's variants (SCIENCE 5)."""

from __future__ import annotations

from typing import Any

from lowregret.spec.study import GroupSpec
from truths.simulator import BASE, BEND, AnyMethod, Nature, Truth, World

PLAIN, PISSA, DORA = "lora:16", "lora:16:pissa", "lora:16:dora"
QUESTION: dict[str, Any] = {"kind": "variants", "methods": (PLAIN, PISSA, DORA), "steps": 8, "evals": 1}
OFF = 0.3
"""Doublings by which every best rate lies off the rates that are tried: all methods lose the same by that."""
LOSS = BASE - 1.5 + BEND * OFF**2
"""Plain LoRA's."""


def world(
    name: str,
    pissa: float,
    dora: float,
    lower: bool,
    full: float,
    lora: float,
    holds: bool | None,
    *,
    twin: bool = False,
) -> World:
    """A world of variants.

    Args:
        pissa, dora: by how much they end above plain LoRA, a share of its loss.
        lower: whether PiSSA's best rate lies two thirds of plain LoRA's or half as high again.
        full, lora: by how much the loss on the base's text rises, nats.
        twin: whether PiSSA's best rate is plain LoRA's.
    """
    above = {PISSA: pissa, DORA: dora, PLAIN: 0.0, "full": -0.1}
    best = {PLAIN: 3 + OFF, PISSA: 3 - OFF} if lower else {PLAIN: 3 - OFF, PISSA: 3 + OFF}
    best |= {PISSA: best[PLAIN]} if twin else {}
    best |= {DORA: 4 + OFF, "full": OFF}

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        return 1.5 - above[method.name] * LOSS

    return World(
        name,
        QUESTION,
        {
            f"variants-close:{PISSA}": Truth(holds, pissa, within=0.04),  # a seed's best rate lies a little elsewhere
            f"variants-close:{DORA}": Truth(holds, dora, within=0.04),
            "variants-pissa": Truth(holds, 2 ** (best[PISSA] - best[PLAIN])),
            "variants-forget": Truth(holds, full - lora),
        },
        Nature(
            learned,
            best=lambda group, method, step: best[method.name],
            drift=lambda group, step: 0.02,
            forgets=lambda method: {"full": full, PLAIN: lora}.get(method.name, 5.0),
        ),
    )


WORLDS = (
    world("as was found", pissa=0.015, dora=-0.015, lower=True, full=0.3, lora=0.2, holds=True),
    world("a better PiSSA", pissa=-0.015, dora=0.015, lower=True, full=0.3, lora=0.2, holds=True),
    world("the other way round", pissa=0.03, dora=-0.03, lower=False, full=0.1, lora=0.4, holds=False),
    world("a far better PiSSA", pissa=-0.03, dora=0.03, lower=False, full=0.1, lora=0.4, holds=False),
    world("at the bounds", 0.02, -0.02, lower=True, full=0.2, lora=0.2, holds=None, twin=True),
)
