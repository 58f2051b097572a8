"""One token of every row through a base of the common kind, without what lies between its products.

With few rows the products of a decoding step take less time than the calls around them: masks, configurations, norms
and rotations of several small operations each. So for decoder layers that are an attention with rotary positions and a
gated MLP behind an RMSNorm each, the step is written out here, over the base's own modules and weights. Everything else
about a base, reading its prompts included, is left to its own code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lowregret.engine.parallel.fsdp import gathered, own_type, unshard
from lowregret.engine.sampling.cache import SlotCache, SlotLayer
from lowregret.lora.decoding import base_product, few_rows

LAYERS = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Those of transformers that compute what is written here."""


class Step(Protocol):
    """One token more for every row."""

    def __call__(
        self, chosen: Int[Tensor, " rows"], positions: Int[Tensor, "rows 1"], cache: SlotCache
    ) -> Float[Tensor, "rows 1 vocabulary"]:
        """Logits of the next tokens; the cache has been advanced."""


def lean_step(model: PreTrainedModel) -> Step | None:
    """The step of this base with the modules that it has now; None when its layers are of another kind.

    Layers in parts gather their weights as by their own calls; what lies outside of them stays gathered, as after a
    call of the base. Layers that are computed in parts, which hooks put together, are another kind. Under autocast
    products are in its type here too, norms and rotations in float32.
    """
    inner: Any = getattr(model, "model", None)
    layers = list(getattr(inner, "layers", ()))
    types = {own_type(layer) for layer in layers}
    kinds = {(kind.__name__, kind.__module__.partition(".")[0]) for kind in types}
    known = kinds <= {(name, "transformers") for name in LAYERS}
    hooked = any(module._forward_hooks for layer in layers for module in layer.children())
    if not layers or not known or hooked:
        return None
    return _Lean(model, inner, layers)


@final
class _Lean:
    """`Step` over a base's own modules."""

    def __init__(self, model: PreTrainedModel, inner: Any, layers: list[Any]) -> None:
        self._embed, self._rotary, self._norm = inner.embed_tokens, inner.rotary_emb, inner.norm
        self._unembed: Callable[[Tensor], Tensor] = model.get_output_embeddings()
        self._model = model
        self._layers = [(layer, _Layer(layer)) for layer in layers]

    def __call__(
        self, chosen: Int[Tensor, " rows"], positions: Int[Tensor, "rows 1"], cache: SlotCache
    ) -> Float[Tensor, "rows 1 vocabulary"]:
        unshard(self._model)
        x = self._embed(chosen[:, None])
        turns = _turns(*self._rotary(x, positions))
        for (module, layer), states in zip(self._layers, cache.layers, strict=True):
            assert isinstance(states, SlotLayer)
            with gathered(module):
                x = layer(x, turns, states)
        return self._unembed(_rms_norm(self._norm, x))


Turns = tuple[Float[Tensor, "rows 1 2 half"], Float[Tensor, "rows 1 2 half"]]
"""Cosines, and sines with the sign that goes with exchanged halves."""


def _turns(cos: Float[Tensor, "rows 1 d"], sin: Float[Tensor, "rows 1 d"]) -> Turns:
    """Rotation by halves, x · cos + (−x₂, x₁) · sin, is x · cos + (x₂, x₁) · (−sin, sin)."""
    cos, sin = (each.view(each.shape[0], 1, 2, -1) for each in (cos, sin))
    return cos, torch.cat([-sin[:, :, :1], sin[:, :, 1:]], 2)


class _Layer:
    """A decoder layer; calls of its modules skip their hooks, of which there are none."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._width = attention.head_dim
        self._scaling, self._window = attention.scaling, getattr(attention, "sliding_window", None)
        self._before_attention, self._before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self._of_query, self._of_key = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self._query, self._key, self._value, self._output = (
            _product(getattr(attention, f"{name}_proj")) for name in ("q", "k", "v", "o")
        )
        self._gate, self._up, self._down = (_product(getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down"))
        self._activation: Callable[[Tensor], Tensor] = mlp.act_fn

    def __call__(self, x: Float[Tensor, "rows 1 d"], turns: Turns, states: SlotLayer) -> Float[Tensor, "rows 1 d"]:
        y = _rms_norm(self._before_attention, x)
        x = x + self._output(self._attend(y, turns, states))
        y = _rms_norm(self._before_mlp, x)
        return x.add_(self._down(self._activation(self._gate(y)).mul_(self._up(y))))

    def _attend(self, y: Float[Tensor, "rows 1 d"], turns: Turns, states: SlotLayer) -> Float[Tensor, "rows 1 d_heads"]:
        rows, width = y.shape[0], self._width
        query, key, value = (of(y).view(rows, -1, width) for of in (self._query, self._key, self._value))
        if self._of_query is not None:
            query, key = _rms_norm(self._of_query, query), _rms_norm(self._of_key, key)
        both = torch.cat([query, key], 1).view(rows, -1, 2, width // 2)
        both = torch.addcmul(both * turns[0], both.flip(2), turns[1]).view(rows, -1, 1, width)
        heads = query.shape[1]
        states.write(both[:, heads:, 0], value)
        return states.attend(both[:, :heads, 0], self._scaling, self._window).view(rows, 1, -1)


def _product(linear: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a matrix of the base computes, adapted or not."""
    plain: Callable[[Tensor], Tensor] = linear.forward
    return partial(base_product, linear) if type(linear) is nn.Linear and few_rows() else plain


def _rms_norm(norm: Any, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
    return F.rms_norm(x.to(norm.weight.dtype), x.shape[-1:], norm.weight, norm.variance_epsilon)
