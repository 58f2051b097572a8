"""What a base that lies in parts takes of each device, and what is gathered of it. Torch-free.

FSDP2 gathers a layer when it is its turn and lets go of it again, forward and backward; what lies outside of the layers
(embedding, last norm, unembedding) is one group that stays gathered from the pass's start to its end
(engine/parallel/fsdp.py). Tensor parallelism cuts the matrices of the layers and an unembedding of its own; the
embedding is whole. Experts are shared by expert parallelism.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lowregret.errors import SpecError
from lowregret.plan.resources.activations import PRECISE
from lowregret.plan.shapes.weights import Shapes, Weight
from lowregret.spec import FullFT, LoRA
from lowregret.spec.lean import kind_of
from lowregret.spec.mesh import Divisible, Mesh
from lowregret.spec.optimizer import BLOCK

PRODUCTS = ("attention", "mlp", "experts", "router", "unembedding")
"""Kinds of weights that are stored in the type of products, where they are frozen."""
CAST = ("attention", "mlp", "experts", "router")
"""Kinds of which a graph of FullFT keeps a copy in the type of products: autocast's, and those of fused experts
(engine/forward/mixture.py). The unembedding has a copy of its own (engine/forward/head.py)."""
CUT = ("attention", "mlp", "unembedding")
"""Kinds that tensor parallelism cuts."""
_AHEAD = 2
"""Layers that are gathered at once: the one at work and the next, or before it in the backward pass."""


def require_blocks(shapes: Shapes, method: FullFT | LoRA, devices: int) -> None:
    """SpecError where so many devices would hold weights in parts whose rows hold no whole blocks of numbers, which an
    optimizer with scales for them does not step there (engine/optim/lean_adamw.py)."""
    if devices == 1 or isinstance(method, LoRA) or "block" not in kind_of(method).STATE.values():
        return
    matrices = [weight for weight in shapes.weights if len(weight.shape) > 1]
    rows = [(w.size if w.kind == "experts" else math.prod(w.shape[1:]), w.name) for w in matrices]  # an expert is a row
    odd = sorted((row, name) for row, name in rows if row % BLOCK)
    if odd:
        raise SpecError(
            f"{method.name}: on {devices} devices weights lie in parts, of rows that must hold whole blocks of {BLOCK} "
            f"numbers, and {odd[0][1]} of {shapes.name} has rows of {odd[0][0]:,}. Use one device, or full."
        )


@dataclass(frozen=True)
class Gathered:
    """Bytes of weights once they are gathered, on each device of a mesh."""

    layers: float
    """All of them, of which few are there at a time."""
    outside: float
    """Of the group that stays."""
    widest: float
    """The largest layer."""

    @property
    def ahead(self) -> float:
        """What is there of the layers at a time."""
        return _AHEAD * self.widest


NOTHING = Gathered(0.0, 0.0, 0.0)


def gathered(shapes: Shapes, method: FullFT | LoRA, mesh: Mesh, wide: int) -> Gathered:
    """Of weights in float32, when they train, else of matrices in `wide` bytes a number; nothing unless FSDP cuts."""
    if mesh.shard == 1:
        return NOTHING
    layers: dict[int, float] = {}
    outside = 0.0
    for weight, count in _counted(shapes, mesh):
        number = PRECISE if isinstance(method, FullFT) or weight.kind not in PRODUCTS else wide
        for layer in weight.layers:
            layers[layer] = layers.get(layer, 0.0) + number * count / len(weight.layers)
        outside += 0 if weight.layers else number * count
    return Gathered(sum(layers.values()), outside, max(layers.values(), default=0.0))


def held(shapes: Shapes, mesh: Mesh) -> tuple[float, float]:
    """Numbers of the base on each device: of matrices that products take, and of all else."""
    products = sum(count for weight, count in _counted(shapes, mesh) if weight.kind in PRODUCTS)
    rest = sum(count for weight, count in _counted(shapes, mesh) if weight.kind not in PRODUCTS)
    return products / mesh.shard, rest / mesh.shard


def alike(shapes: Shapes, mesh: Mesh) -> tuple[float, float]:
    """Numbers of the base on each device that tensor ranks have alike, and those that expert ranks have alike."""
    uncut = sum(count for weight, count in _counted(shapes, mesh) if weight.kind not in CUT)
    dense = sum(count for weight, count in _counted(shapes, mesh) if weight.kind != "experts")
    return uncut / mesh.shard, dense / mesh.shard


def cast_numbers(shapes: Shapes, mesh: Mesh) -> float:
    """Numbers of the matrices that a graph of FullFT keeps copies of, on each device once they are gathered."""
    return sum(count for weight, count in _counted(shapes, mesh) if weight.kind in CAST)


def divisible(shapes: Shapes) -> Divisible:
    """What a mesh has to divide."""
    matrices = [weight for weight in shapes.weights if weight.kind == "mlp" and len(weight.shape) == 2]
    widths = {width for weight in matrices for width in weight.shape} - {shapes.hidden_size}
    return Divisible(
        shapes.name,
        sorted({group.heads for group in shapes.attention}),
        sorted({group.kv_heads for group in shapes.attention}),
        sorted(widths),
        shapes.experts,
    )


def _counted(shapes: Shapes, mesh: Mesh) -> Iterator[tuple[Weight, float]]:
    """Every weight that is stored, and how many of its numbers are left of it by tensor and expert parallelism."""
    for weight in shapes.weights:
        if not weight.tied:
            cut = mesh.tensor if weight.kind in CUT else mesh.expert if weight.kind == "experts" else 1
            yield weight, weight.size * weight.copies / cut
