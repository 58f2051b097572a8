"""Gemma 4: global layers with wider heads, keys and values shared between layers, token vectors for every layer."""

from __future__ import annotations

from collections.abc import Mapping

from lowregret.plan.shapes.layouts.builder import LayoutBuilder
from lowregret.plan.shapes.layouts.families import FOUR_NORMS, Family
from lowregret.plan.shapes.layouts.feed_forward import experts, mlp
from lowregret.plan.shapes.layouts.mixers import window

_EXPERT_NORMS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")


def gemma4(layout: LayoutBuilder, family: Family) -> None:
    """Every layer, and the weights outside of them that only this family has."""
    config, hidden = layout.config, layout.config.hidden
    shared_from = config.layers - config.count("num_kv_shared_layers")
    extra = config.count("hidden_size_per_layer_input")
    for layout.layer in range(config.layers):
        shared = layout.layer >= shared_from
        for norm in FOUR_NORMS:
            layout.norm(norm)
        _attention(layout, family, shared)
        wide = 2 if shared and config.get("use_double_wide_mlp") else 1
        mlp(layout, family, "mlp", wide * config.need("intermediate_size"))
        if config.get("enable_moe_block"):
            experts(layout, family)
            layout.add("router.scale", "other", hidden)
            layout.add("router.per_expert_scale", "other", config.need("num_experts"))
            for norm in _EXPERT_NORMS:
                layout.norm(norm)
        if extra:
            layout.linear("per_layer_input_gate", "mlp", hidden, extra)
            layout.linear("per_layer_projection", "mlp", extra, hidden)
            layout.norm("post_per_layer_input_norm")
    if extra:
        rows, columns = config.need("vocab_size_per_layer_input"), config.layers * extra
        layout.outside("model.embed_tokens_per_layer.weight", "embedding", rows, columns)
        layout.outside("model.per_layer_model_projection.weight", "other", columns, hidden)
        layout.outside("model.per_layer_projection_norm.weight", "other", extra)


def _attention(layout: LayoutBuilder, family: Family, shared: bool) -> None:
    config, name, hidden = layout.config, "self_attn", layout.config.hidden
    seen = window(config, family, layout.layer)
    # The last layer is global whatever the pattern says.
    seen = None if layout.layer == config.layers - 1 else seen
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_width
    twins = bool(config.get("attention_k_eq_v")) and seen is None
    if seen is None:
        width = config.count("global_head_dim") or width
        kv_heads = (config.count("num_global_key_value_heads") if twins else 0) or kv_heads
    own = config.get("per_layer_config")
    if isinstance(own, Mapping):  # how transformers saves the same
        values: Mapping[str, int] = next((value for number, value in own.items() if int(number) == layout.layer), {})
        width, kv_heads = values.get("head_dim", width), values.get("num_key_value_heads", kv_heads)
    bias = bool(config.get("attention_bias", False))
    layout.linear(f"{name}.q_proj", "attention", hidden, heads * width, bias)
    layout.norm(f"{name}.q_norm", width)
    if not shared:
        layout.linear(f"{name}.k_proj", "attention", hidden, kv_heads * width, bias)
        if not twins:
            layout.linear(f"{name}.v_proj", "attention", hidden, kv_heads * width, bias)
        layout.norm(f"{name}.k_norm", width)
    layout.linear(f"{name}.o_proj", "attention", heads * width, hidden, bias)
    layout.softmax(heads, kv_heads, width, width, seen)
