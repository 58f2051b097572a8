"""What a layout reads (a config.json) and what it writes (weights, layer by layer)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowregret.errors import ModelError
from lowregret.plan.shapes.weights import AttentionLayers, StateLayers, Weight, WeightKind

LAYER = "model.layers.*."


class ConfigReader:
    """A config.json, with transformers' defaults for the keys that a family leaves out."""

    def __init__(self, values: Mapping[str, Any], name: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.values = values
        self.name = name
        self.defaults = defaults or {}

    def get(self, key: str, default: Any = None) -> Any:
        """The key's value, or transformers' for this family where the key is absent; `default` instead of null."""
        value = self.values[key] if key in self.values else self.defaults.get(key)
        return default if value is None else value

    def need(self, *keys: str) -> int:
        """The whole positive number under the first of `keys` that is there; ModelError when none is."""
        for key in keys:
            value = self.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(
                    f"{self.name}: its configuration says {key} = {value!r}; a whole number ≥ 1 is needed."
                )
            return value
        raise ModelError(
            f"{self.name}: its configuration has no {' and no '.join(keys)} (model_type "
            f"{self.values.get('model_type')!r}), so its shapes cannot be told."
        )

    def count(self, key: str, default: int = 0) -> int:
        """A whole number that may be 0 or absent."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.name}: its configuration says {key} = {value!r}; a whole number is needed.")
        return value

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.need("hidden_size", "n_embd", "d_model")

    @property
    def layers(self) -> int:
        """Layers."""
        return self.need("num_hidden_layers", "n_layer", "num_layers")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.need("num_attention_heads", "n_head")

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.count("num_key_value_heads") or self.heads

    @property
    def head_width(self) -> int:
        """Of a query, key or value."""
        return self.count("head_dim") or self.hidden // self.heads


@dataclass
class LayoutBuilder:
    """Collects weights; equal ones of different layers become one `Weight`."""

    config: ConfigReader
    layer: int = 0
    """The one that is being written."""
    prefix: str = LAYER
    """What the names inside of a layer start with."""
    _weights: dict[tuple[str, WeightKind, tuple[int, ...]], list[int]] = field(default_factory=dict)
    _outside: list[Weight] = field(default_factory=list)
    _experts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _attention: dict[tuple[int, int, int, int, int | None], int] = field(default_factory=dict)
    _states: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def add(self, name: str, kind: WeightKind, *shape: int, experts: tuple[int, int] = (1, 1)) -> None:
        """A weight of this layer; `experts` are how many there are, and how many a token passes through."""
        self._weights.setdefault((name, kind, shape), []).append(self.layer)
        self._experts[name] = experts

    def linear(self, name: str, kind: WeightKind, d_in: int, d_out: int, bias: bool = False) -> None:
        """A matrix of this layer (d_out, d_in), and its bias if it has one."""
        self.add(f"{name}.weight", kind, d_out, d_in)
        if bias:
            self.add(f"{name}.bias", "other", d_out)

    def norm(self, name: str, width: int | None = None, bias: bool = False) -> None:
        """A norm of this layer; as wide as the residual stream unless told."""
        width = self.config.hidden if width is None else width
        self.add(f"{name}.weight", "other", width)
        if bias:
            self.add(f"{name}.bias", "other", width)

    def outside(self, name: str, kind: WeightKind, *shape: int, tied: bool = False, active: int = 1) -> None:
        """A weight that belongs to no layer."""
        self._outside.append(Weight(name, kind, shape, 1, active, tied))

    def outside_norm(self, name: str, bias: bool = False) -> None:
        """The norm after the last layer."""
        self.outside(f"{name}.weight", "other", self.config.hidden)
        if bias:
            self.outside(f"{name}.bias", "other", self.config.hidden)

    def vocabulary(self, embedding: str, unembedding: str, *, tied: bool, width: int | None = None) -> None:
        """Embedding and unembedding; `tied` is what a config means that does not say, `width` is that of a token."""
        config = self.config
        shape = (config.need("vocab_size"), config.hidden if width is None else width)
        self.outside(f"{embedding}.weight", "embedding", *shape)
        tied = bool(config.get("tie_word_embeddings", tied))
        self.outside(f"{unembedding}.weight", "unembedding", *shape, tied=tied)
        if config.get("lm_head_bias", False):
            self.outside(f"{unembedding}.bias", "other", shape[0])

    def softmax(self, heads: int, kv_heads: int, key_width: int, value_width: int, window: int | None = None) -> None:
        """Say that this layer's attention is softmax attention of such heads."""
        key = (heads, kv_heads, key_width, value_width, window)
        self._attention[key] = self._attention.get(key, 0) + 1

    def state(self, heads: int, key_width: int, value_width: int) -> None:
        """Say that this layer keeps such a state instead of keys and values."""
        key = (heads, key_width, value_width)
        self._states[key] = self._states.get(key, 0) + 1

    @property
    def weights(self) -> tuple[Weight, ...]:
        """All of them, layers first."""
        inside = []
        for (name, kind, shape), layers in self._weights.items():
            every, chosen = self._experts[name]
            copies, active = len(layers) * every, len(layers) * chosen
            inside.append(Weight(self.prefix + name, kind, shape, copies, active, layers=tuple(layers)))
        return (*inside, *self._outside)

    @property
    def attention(self) -> tuple[AttentionLayers, ...]:
        """The groups of equal softmax attention."""
        return tuple(AttentionLayers(layers, *key) for key, layers in self._attention.items())

    @property
    def states(self) -> tuple[StateLayers, ...]:
        """The groups of layers with equal states."""
        return tuple(StateLayers(layers, *key) for key, layers in self._states.items())
