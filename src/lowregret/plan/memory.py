"""How much memory training takes on our engine, counted from shapes. Torch-free.

The engine keeps frozen weights once and gives them no gradient, keeps x and x Aᵀ of an adapted matrix and not its
output, never holds all logits, and lays rows end to end without padding (docs/engine.md). Constants that were measured
say so; FINDINGS.md has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lowregret.plan.adapters import lora_parameters
from lowregret.plan.hardware import Hardware
from lowregret.plan.shapes import Shapes
from lowregret.spec import FullFT, LoRA

CPU_PASS_TOKENS = 1024
"""Tokens of a pass on a CPU, at most (engine/footprint.py); a longer row is a pass of its own."""
EVAL_TOKENS = 4096
"""Tokens of a held-out pass (data/batches.py)."""
CHUNK_BYTES = 128 * 2**20
"""Of the logits that are there at once (engine/head.py)."""
RANK_STEP = 4
"""Ranks are padded to a multiple of this (lora/bank.py)."""
CPU_PROCESS = 445_000_000
"""Python, torch and transformers with their libraries, resident: measured."""
CPU_HEAP = 0.35
"""Of what a pass keeps, a CPU's heap holds so much more: tensors of some MB are freed in another order than they came.
Measured with glibc."""
CUDA_CONTEXT = 500_000_000
"""CUDA's context with the kernels that are loaded: 0.3 to 0.6 GB by device and driver; assumed, not measured here."""
GPU_FRAGMENTATION = 0.05
"""Share of all else that torch's allocator holds on a GPU and nobody uses; assumed, not measured here."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the peak of a run, evaluations included."""

    weights: int
    """The base, and the adapter or the copies in another type that training adds."""
    gradients: int
    optimizer: int
    """Adam's two moments, float32."""
    activations: int
    """What a pass keeps until its backward pass, and the temporaries of the widest layer."""
    logits: int
    context: int
    """The process's libraries on a CPU, CUDA's context on a GPU."""
    fragmentation: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory(
    shapes: Shapes,
    method: FullFT | LoRA,
    *,
    rows: int,
    length: int,
    supervised: int | None = None,
    checkpoint_activations: bool = False,
    accumulating: bool = False,
    shards: int = 1,
    hardware: Hardware | None = None,
) -> Memory:
    """Training with `rows` rows of `length` tokens at once, `supervised` of them supervised in each (all when None).

    On a CPU (`hardware.kind`) all is float32 and a pass has at most CPU_PASS_TOKENS tokens; else products are bfloat16,
    and without `hardware` a GPU is meant. `accumulating`: a step has several passes, so that gradients are there from
    the start of the later ones; on a CPU that follows from the tokens. With `shards` devices (FSDP) each holds its
    share of weights, gradients and moments, and one layer in full; `rows` are those of one device.
    """
    cpu = hardware is not None and hardware.kind == "cpu"
    wide = 4 if cpu else 2
    trained = trainable(shapes, method)
    tokens = rows * length
    if cpu and tokens > CPU_PASS_TOKENS:
        tokens = max(CPU_PASS_TOKENS // length, 1) * length
        accumulating = accumulating or tokens < rows * length
    positions = math.ceil(tokens * (1.0 if supervised is None else supervised / length))
    logits = min(positions * shapes.vocabulary * 4, CHUNK_BYTES) + positions * shapes.hidden_size * 4
    gradients = 4 * trained // shards
    weights = _weights(shapes, method, wide) // shards + (0 if isinstance(method, FullFT) else 4 * trained // shards)
    kept = tokens * (layer_bytes(shapes, method, wide) if checkpoint_activations else token_bytes(shapes, method, wide))
    if checkpoint_activations:
        kept += tokens * shapes.layers * shapes.hidden_size * 4
    first = kept + tokens * _temporaries(shapes, wide) + _copies(shapes, method, wide) // shards
    judging = EVAL_TOKENS * _forward_bytes(shapes, wide)
    if isinstance(method, FullFT):
        # Gradients appear as activations go; between steps there are none. The unembedding's come first, twice over.
        head = 8 * shapes.vocabulary * shapes.hidden_size // shards
        last = gradients + head
        first += head + gradients * accumulating
        activations = max(first, last, judging) - gradients
    else:
        activations = max(first, judging)
    activations += 0 if shards == 1 else 2 * wide * _matrices(shapes) / max(shapes.layers, 1)  # a layer, gathered
    parts = (weights, gradients, 8 * trained // shards, round(activations), logits)
    if cpu:
        return Memory(*parts, context=CPU_PROCESS, fragmentation=round(CPU_HEAP * kept))
    return Memory(*parts, context=CUDA_CONTEXT, fragmentation=round(GPU_FRAGMENTATION * sum(parts)))


def trainable(shapes: Shapes, method: FullFT | LoRA) -> int:
    """Numbers that train and are stored: ranks are padded to a multiple of RANK_STEP."""
    if isinstance(method, FullFT):
        return shapes.total
    padded = math.ceil(method.rank / RANK_STEP) * RANK_STEP
    counts = lora_parameters(shapes, padded, method.targets, method.convention)
    return sum(counts.values())


def _matrices(shapes: Shapes) -> int:
    """Parameters whose type is that of products; a tied unembedding is the embedding, which stays float32."""
    kinds = ("attention", "mlp", "experts", "router", "unembedding")
    return sum(count for kind, count in shapes.by_kind().items() if kind in kinds)


def _weights(shapes: Shapes, method: FullFT | LoRA, wide: int) -> int:
    """Bytes of the base: what trains is float32, and so is what is no matrix."""
    matrices = 0 if isinstance(method, FullFT) else _matrices(shapes)
    return wide * matrices + 4 * (shapes.total - matrices)


def _copies(shapes: Shapes, method: FullFT | LoRA, wide: int) -> int:
    """Bytes of weights in the type of products while a pass lasts: autocast's, and two of a tied unembedding."""
    if wide == 4:
        return 0
    tied = any(weight.kind == "unembedding" and weight.tied for weight in shapes.weights)
    unembedding = 2 * wide * shapes.vocabulary * shapes.hidden_size * tied
    return unembedding + (wide * _matrices(shapes) if isinstance(method, FullFT) else 0)


def token_bytes(shapes: Shapes, method: FullFT | LoRA, wide: int) -> float:
    """What a token keeps until the backward pass; `wide` bytes a number in products."""
    return shapes.layers * layer_bytes(shapes, method, wide)


def layer_bytes(shapes: Shapes, method: FullFT | LoRA, wide: int) -> float:
    """What a token keeps in a layer, on average over the layers.

    Attention: the input of its norm (float32) and the norm's output; queries, keys, values and the output. MLP: the
    same of its norm, then gate, activated gate, up and their product. Experts: the same for each that is chosen, and
    their inputs. FullFT keeps each norm's normalised input too, and LoRA each adapter's x Aᵀ.
    """
    full = isinstance(method, FullFT)
    hidden = shapes.hidden_size
    numbers = 2.0 * hidden  # outputs of two norms
    precise = 2.0 * hidden + (2 * hidden if full else 0)  # their inputs, and what FullFT keeps of them
    per_layer = 1 / max(shapes.layers, 1)
    for group in shapes.attention:
        share = group.layers * per_layer
        queries, keys, values = (
            group.heads * group.key_width,
            group.kv_heads * group.key_width,
            group.kv_heads * group.value_width,
        )
        numbers += share * (queries + keys + values + group.heads * group.value_width)
        if _norms_heads(shapes):
            precise += share * (queries + keys) * (2 if full else 1)
    for states in shapes.states:
        share = states.layers * per_layer
        numbers += share * states.heads * (2 * states.key_width + 3 * states.value_width)
    numbers += 4 * _inner(shapes) * per_layer
    numbers += 3 * hidden * shapes.active_experts * bool(shapes.experts)
    if isinstance(method, LoRA):
        rank = math.ceil(method.rank / RANK_STEP) * RANK_STEP
        adapted = sum(
            w.active for w in shapes.weights if w.kind in ("attention", "mlp", "experts") and len(w.shape) == 2
        )
        numbers += rank * adapted * per_layer
    return wide * numbers + 4 * precise


def _inner(shapes: Shapes) -> float:
    """The width of the MLPs that a token passes through, summed over the layers."""
    inner = 0
    for weight in shapes.weights:
        if weight.kind in ("mlp", "experts") and len(weight.shape) == 2 and weight.shape[0] == shapes.hidden_size:
            inner += weight.shape[1] * weight.active
    return inner


def _norms_heads(shapes: Shapes) -> bool:
    return any(weight.name.endswith(("q_norm.weight", "q_layernorm.weight")) for weight in shapes.weights)


def _temporaries(shapes: Shapes, wide: int) -> float:
    """A token's share of what a layer's backward pass holds at once: gradients of the MLP's four parts and of x."""
    inner = _inner(shapes) / max(shapes.layers, 1)
    return wide * 3 * inner + 4 * 3 * shapes.hidden_size


def _forward_bytes(shapes: Shapes, wide: int) -> float:
    """A token's share of what a forward pass holds at once: the residual, a norm's output, gate, up, their product."""
    inner = _inner(shapes) / max(shapes.layers, 1)
    return wide * (3 * inner + shapes.hidden_size) + 4 * 2 * shapes.hidden_size
