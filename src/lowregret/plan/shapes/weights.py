"""Every weight of a model, from its configuration alone: what the rest of the plan counts with. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

WeightKind = Literal["attention", "mlp", "experts", "router", "embedding", "unembedding", "other"]
"""`attention` holds the projections of every mixer over positions: softmax, latent, linear attention, Mamba. `mlp` has
shared experts too; `other` is norms, biases, convolutions, sinks: what no adapter goes on."""


@dataclass(frozen=True)
class Weight:
    """Weights of one shape that play one part in a model."""

    name: str
    """As transformers names the module, and `.weight` or the like, with `*` for layer and expert numbers."""
    kind: WeightKind
    shape: tuple[int, ...]
    """(d_out, d_in) of a matrix that multiplies hidden states; (n,) and others have no adapter."""
    copies: int
    """How many there are: layers × experts."""
    active: int
    """How many of them a token passes through: layers × experts chosen."""
    tied: bool = False
    """Another name of a weight that is counted already (the unembedding of a tied model): 0 parameters, but arithmetic
    and an adapter of its own."""
    layers: tuple[int, ...] = ()
    """The layers that have it, from 0; empty for what lies outside of them."""

    @property
    def size(self) -> int:
        """Numbers in one copy."""
        return _size(self.shape)


@dataclass(frozen=True)
class AttentionLayers:
    """Layers whose attention looks alike."""

    layers: int
    heads: int
    kv_heads: int
    key_width: int
    """Of a head's queries and keys."""
    value_width: int
    window: int | None = None
    """Tokens that a position sees at most; None for all."""


@dataclass(frozen=True)
class StateLayers:
    """Layers of linear attention or Mamba that look alike: each head keeps a matrix instead of keys and values."""

    layers: int
    heads: int
    key_width: int
    """Rows of a head's state: the width of its keys, or Mamba's state size."""
    value_width: int
    """Columns of a head's state."""


@dataclass(frozen=True)
class Shapes:
    """What a model is made of."""

    name: str
    family: str
    """transformers' `model_type` of the text model: llama, qwen3, qwen3_moe …"""
    hidden_size: int
    layers: int
    vocabulary: int
    context: int | None
    """Positions."""
    intermediate_size: int | None
    """Width of a dense layer's MLP, or of an expert where there are only experts."""
    experts: int
    """Routed experts a layer; 0 in a dense model."""
    active_experts: int
    """Routed experts that a token passes through in a layer; 0 in a dense model."""
    weights: tuple[Weight, ...]
    attention: tuple[AttentionLayers, ...]
    """The layers with softmax attention."""
    dtype: str = "bfloat16"
    """Of the checkpoint."""
    states: tuple[StateLayers, ...] = ()
    """The layers with linear attention or Mamba; their projections are weights, of kind `attention`."""
    notes: tuple[str, ...] = ()
    """Where this comes from, and what it leaves out; sentences for the user."""

    @property
    def total(self) -> int:
        """Parameters."""
        return sum(w.size * w.copies for w in self.weights if not w.tied)

    @property
    def active(self) -> int:
        """Parameters that a token uses."""
        return sum(w.size * w.active for w in self.weights if not w.tied)

    def by_kind(self) -> dict[WeightKind, int]:
        """Parameters of each kind; together they are `total`."""
        counts: dict[WeightKind, int] = {}
        for weight in self.weights:
            counts[weight.kind] = counts.get(weight.kind, 0) + weight.size * weight.copies * (not weight.tied)
        return counts


def _size(shape: Iterable[int]) -> int:
    size = 1
    for width in shape:
        size *= width
    return size
