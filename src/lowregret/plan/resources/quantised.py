"""What a base in four bits takes of memory and time. Torch-free.

The matrices of the layers are packed (models/four_bit.py), and each is unpacked, in the type of products, for every
product with it and no longer.
"""

from __future__ import annotations

from lowregret.plan.shapes.adapters import adaptable
from lowregret.plan.shapes.weights import Shapes, Weight
from lowregret.spec import FullFT, LoRA

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a number: four bits, an eight-bit scale for 64 of them, and a float32 scale for 256 of those: 0.516."""
UNPACKED_TRAFFIC = {"cpu": 10.0, "gpu": NF4_BYTES + 2}
"""Bytes at the speed of memory that unpacking a number takes. A CPU's was measured, beside copies of float32, and holds
the arithmetic (docs/findings/2026-11-30-qlora.md); a GPU's is counted."""
_KINDS = ("attention", "mlp", "experts")


def packed_numbers(shapes: Shapes, method: FullFT | LoRA) -> int:
    """Numbers of the base that are in four bits: none unless the method says so."""
    return sum(weight.size * weight.copies for weight in _packed(shapes, method))


def unpacked_bytes(shapes: Shapes, method: FullFT | LoRA, wide: int) -> int:
    """Of the largest matrix that is there unpacked at a time, or of all experts' of a layer."""
    found = {"": 0}
    for weight in _packed(shapes, method):
        if weight.kind == "experts":
            found["experts"] = found.get("experts", 0) + weight.size * weight.copies // max(len(weight.layers), 1)
        else:
            found[""] = max(found[""], weight.size)
    return wide * max(found.values())


def _packed(shapes: Shapes, method: FullFT | LoRA) -> list[Weight]:
    if method.quantisation == "none":
        return []
    return [weight for weight in adaptable(shapes) if weight.kind in _KINDS]
