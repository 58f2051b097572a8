"""What a pass of our engine keeps for its backward pass, counted from shapes. Torch-free.

Kept is what autograd and `lora/linear.py` save, tensor by tensor, as transformers' layers of the Llama kind make them:
the input of each norm (and, where the norm trains, its normalised form), what the trained matrices read, queries, keys,
values and the output of attention, and of an MLP gate, activated gate, up and their product. A frozen matrix keeps
nothing. The tests hold the counts to what torch saves.
"""

from __future__ import annotations

import math
import re

from lowregret.plan.resources.flops import OUTPUT
from lowregret.plan.shapes.adapters import chosen, ranks_of
from lowregret.plan.shapes.weights import AttentionLayers, Shapes, Weight
from lowregret.spec import FullFT, LoRA

RANK_STEP = 4
"""Ranks are padded to a multiple of this (lora/bank.py)."""
PRECISE = 4
"""Bytes of a number outside of products: norms and the residual stream are float32."""
_NORM = re.compile(r"(norm\w*|ln_\d)\.weight$")
_DOWN = re.compile(r"(down_proj|c_proj|fc2|w2|dense_4h_to_h|fc_out|wo|per_layer_projection)\.weight$")
_FUSED = re.compile(r"(qkv|query_key_value)")
_UNGATED = {"gpt2": 5, "opt": 1}
"""Times the MLP's width that an MLP without gates keeps, where its activation is no single kernel, or works in place;
else 2: before and after it."""
_SCORES_KEPT = {"gemma2": 2.0, "gpt_oss": 1.0}
"""Families whose own attention the engine leaves them, and how many matrices of scores that keeps, in float32."""


def padded(rank: int) -> int:
    """The rank that is computed."""
    return -(-rank // RANK_STEP) * RANK_STEP


def token_bytes(shapes: Shapes, method: FullFT | LoRA, wide: int, length: int = 1, tensor: int = 1) -> float:
    """Bytes that a token keeps until the backward pass, in all layers; `wide` bytes a number in products.

    `length` of its row matters only to families whose attention keeps all scores. Of `tensor` devices that cut the
    matrices each keeps its heads and its columns of the MLPs, and all of what lies between the layers.
    """
    shares = trained_shares(shapes, method)
    if not any(weight.layers for weight, _ in shares.values()):
        return 0.0  # only the unembedding trains: no gradient reaches the layers
    full = isinstance(method, FullFT)
    total = (
        _norms(shapes, shares, full, wide)
        + _reads(shapes, shares, full, wide)
        + wide * _low_rank(shapes, method, shares)
    )
    cut = _mixing(shapes, wide, length) * _share_of_layers(shapes, shares) + wide * _feeding(shapes, shares, full)
    return total + cut / tensor


def trained_shares(shapes: Shapes, method: FullFT | LoRA) -> dict[str, tuple[Weight, float]]:
    """By name, the matrices that train or carry an adapter, and which share of their copies."""
    if isinstance(method, FullFT):
        return {weight.name: (weight, 1.0) for weight in shapes.weights if len(weight.shape) == 2}
    return {weight.name: (weight, share) for weight, share in chosen(shapes, tuple(method.targets))}


def _norms(shapes: Shapes, shares: dict[str, tuple[Weight, float]], full: bool, wide: int) -> float:
    """The float32 input of each norm; where it trains, what it multiplies by its weight as well.

    Unless the embedding trains, what layer 0 starts from needs no gradient: its first norm keeps nothing, and if no
    attention trains, neither do the others before its MLP.
    """
    names = {weight.name for weight in shapes.weights}
    late = _share_of_layers(shapes, shares) < 1
    total = 0.0
    for weight in shapes.weights:
        if weight.kind != "other" or len(weight.shape) != 1 or not _NORM.search(weight.name):
            continue
        copies = weight.copies - (late and 0 in weight.layers and "post_feedforward" not in weight.name)
        plain = weight.name.removesuffix("weight") + "bias" not in names  # one kernel, if it is a LayerNorm
        again = PRECISE if weight.shape[0] == shapes.hidden_size else wide
        total += copies * weight.shape[0] * _heads(shapes, weight) * (PRECISE + (again if full and plain else 0))
    return total if full or late else max(total - PRECISE * shapes.hidden_size, 0.0)


def _heads(shapes: Shapes, weight: Weight) -> int:
    """How many heads a norm of queries or keys goes over."""
    for group in shapes.attention:
        if weight.shape[0] == group.key_width and "q_norm" in weight.name:
            return group.heads
        if weight.shape[0] == group.key_width and "k_norm" in weight.name:
            return group.kv_heads
    return 1


def _reads(shapes: Shapes, shares: dict[str, tuple[Weight, float]], full: bool, wide: int) -> float:
    """What trained matrices read, apart from what attention and the activation keep anyway.

    In float32 all readers of a norm share its output; in another type each has a copy of its own, the experts of a
    layer one for all.
    """
    seen: dict[tuple[str, tuple[int, ...]], float] = {}
    for weight, share in shares.values():
        if not weight.layers or weight.kind not in ("attention", "mlp", "experts", "router") or _inner(weight):
            continue
        group = "experts" if weight.kind == "experts" else weight.name
        stage = "mixer" if weight.kind == "attention" else "mlp"
        latent = weight.shape[1] != shapes.hidden_size
        key = f"{stage} {weight.shape[1]} {weight.name if latent else ''}" if wide == PRECISE else group
        if full and group == "experts" and wide < PRECISE:
            continue  # autocast leaves the product of a mixture alone: it reads float32, pair by pair (_feeding)
        numbers = share * len(weight.layers) * weight.shape[1]
        seen[key, weight.layers] = max(seen.get((key, weight.layers), 0.0), numbers)
    return wide * sum(seen.values())


def _inner(weight: Weight) -> bool:
    """Whether a matrix reads what lies between two others: attention's output, or an MLP's product."""
    return bool(OUTPUT.search(weight.name) if weight.kind == "attention" else _DOWN.search(weight.name))


def _mixing(shapes: Shapes, wide: int, length: int) -> float:
    """Queries, keys, values and the output of attention, and a number a head for the softmax."""
    total = 0.0
    latent = next((weight for weight in shapes.weights if "kv_b_proj" in weight.name), None)
    fused = any(_FUSED.search(weight.name) for weight in shapes.weights if weight.kind == "attention")
    scores = _SCORES_KEPT.get(shapes.family, 0.0)
    for group in shapes.attention:
        queries, output = group.heads * group.key_width, group.heads * group.value_width
        keys, values = group.kv_heads * group.key_width, group.kv_heads * group.value_width
        if scores:
            keys, values = queries, output  # repeated for each head
        if latent is not None:
            total += group.layers * _latent(group, latent, wide)
            continue
        kept = queries + keys + values + output + (queries + keys if fused else 0)
        seen = min(group.window or length, length)
        total += group.layers * (wide * kept + PRECISE * group.heads * (1 + scores * seen))
    for states in shapes.states:
        total += wide * states.layers * states.heads * (2 * states.key_width + 3 * states.value_width)
    return total


def _latent(group: AttentionLayers, expanded: Weight, wide: int) -> float:
    """The same of a layer whose keys and values come from a latent: rotation makes them float32, and torch's attention
    pads its output. In float32 the values are a view of what the latent is expanded to."""
    numbers = 2 * group.heads * group.key_width + group.heads * max(group.key_width, group.value_width)
    values = group.heads * group.value_width
    kept = PRECISE * (numbers + (expanded.shape[0] if wide == PRECISE else values)) + wide * values
    return kept + PRECISE * group.heads


def _share_of_layers(shapes: Shapes, shares: dict[str, tuple[Weight, float]]) -> float:
    """The share of layers whose attention has a backward pass: not the first, unless something before it trains."""
    if any(weight.kind in ("attention", "embedding") for weight, _ in shares.values()):
        return 1.0
    return 1.0 - 1.0 / max(shapes.layers, 1)


def _feeding(shapes: Shapes, shares: dict[str, tuple[Weight, float]], full: bool) -> float:
    """Numbers that the MLPs and the experts of a token keep, in all layers."""
    total = 0.0
    for weight in shapes.weights:
        if weight.kind not in ("mlp", "experts") or len(weight.shape) != 2 or not _DOWN.search(weight.name):
            continue
        trains = shares.get(weight.name, (weight, 0.0))[1]
        width = weight.shape[1] * weight.active
        gated = weight.kind == "experts" or any(
            other.kind == "mlp" and other.layers == weight.layers and re.search(r"gate|w1\b|w3\b", other.name)
            for other in shapes.weights
        )
        clamped = shapes.family == "gpt_oss"
        before = (6.0 if clamped else 3.0) if gated else _UNGATED.get(shapes.family, 2.0) - 1
        if weight.kind == "experts" and trains and not full:
            before, trains = 2.0, 0.0  # lora/moe/experts.py keeps gate and up, and makes the rest again
        total += width * (before + trains)
        if weight.kind == "experts" and (full or before > 2):
            # The base's own experts: the pairs' outputs for the router's gradient, and their inputs if these train.
            total += weight.active * shapes.hidden_size * (2 if full else 1)
    return total


def _low_rank(shapes: Shapes, method: FullFT | LoRA, shares: dict[str, tuple[Weight, float]]) -> float:
    """Numbers of x Aᵀ, of every adapted matrix that a token passes through in the layers."""
    if isinstance(method, FullFT):
        return 0.0
    each, rank = padded(ranks_of(shapes, method.rank, method.convention)), padded(method.rank)
    inside = ((weight, share) for weight, share in shares.values() if weight.layers)
    return math.fsum(share * weight.active * (each if weight.kind == "experts" else rank) for weight, share in inside)


def inner_width(shapes: Shapes) -> float:
    """The width of the MLP that a token passes through in a layer, its experts' in all; of the widest layer."""
    widths: dict[int, float] = {}
    for weight in shapes.weights:
        if weight.kind in ("mlp", "experts") and len(weight.shape) == 2 and _DOWN.search(weight.name):
            for layer in weight.layers:
                more = weight.shape[1] * weight.active / len(weight.layers)
                widths[layer] = widths.get(layer, 0.0) + more
    return max(widths.values(), default=0.0)
