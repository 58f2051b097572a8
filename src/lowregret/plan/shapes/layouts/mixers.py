"""The half of a layer that looks at other positions: softmax, latent and linear attention, and Mamba."""

from __future__ import annotations

from lowregret.plan.shapes.layouts.builder import ConfigReader, LayoutBuilder
from lowregret.plan.shapes.layouts.families import Family


def softmax(layout: LayoutBuilder, family: Family) -> None:
    """Multi-head attention with grouped keys and values; what the family adds to it is said in `Family`."""
    config, name = layout.config, family.attention_name
    hidden, width = config.hidden, config.head_width
    heads, kv_heads = config.heads, config.kv_heads
    queries, keys = heads * width, kv_heads * width
    bias = bool(config.get("attention_bias", False))
    input_bias = bias if family.qkv_bias is None else family.qkv_bias
    output_bias = bias if family.output_bias is None else family.output_bias
    if family.fused_qkv:
        layout.linear(f"{name}.qkv_proj", "attention", hidden, queries + 2 * keys, input_bias)
    else:
        layout.linear(f"{name}.q_proj", "attention", hidden, queries * (2 if family.gated_output else 1), input_bias)
        layout.linear(f"{name}.k_proj", "attention", hidden, keys, input_bias)
        layout.linear(f"{name}.v_proj", "attention", hidden, keys, input_bias)
    if family.attention_gate:
        layout.linear(f"{name}.gate_proj", "attention", hidden, queries)
    layout.linear(f"{name}.{family.output_name}", "attention", queries, hidden, output_bias)
    if family.qk_norm == "head" or (family.qk_norm == "asked" and config.get("use_qk_norm")):
        layout.norm(f"{name}.q_norm", width)
        layout.norm(f"{name}.k_norm", width)
    elif family.qk_norm == "all":
        layout.norm(f"{name}.q_norm", queries)
        layout.norm(f"{name}.k_norm", keys)
    if family.sinks:
        layout.add(f"{name}.sinks", "other", heads)
    layout.softmax(heads, kv_heads, width, width, window(config, family, layout.layer))


def window(config: ConfigReader, family: Family, layer: int) -> int | None:
    """Tokens that a position of this layer sees at most; None for all."""
    size = config.get("sliding_window")
    if not size or config.get("use_sliding_window") is False:
        return None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        return int(size) if kinds[layer] == "sliding_attention" else None
    every = config.get("sliding_window_pattern", family.full_attention_every)
    if isinstance(every, int) and every > 0:
        return int(size) if (layer + 1) % every else None
    if config.get("use_sliding_window"):  # Qwen: only above the first layers
        return int(size) if layer >= config.count("max_window_layers") else None
    return int(size)


def latent(layout: LayoutBuilder, family: Family) -> None:
    """Multi-head latent attention (DeepSeek): queries, keys and values come from narrow shared vectors."""
    config, name = layout.config, family.attention_name
    hidden, heads = config.hidden, config.heads
    plain, rotary, values = config.need("qk_nope_head_dim"), config.need("qk_rope_head_dim"), config.need("v_head_dim")
    query_rank, kv_rank = config.count("q_lora_rank"), config.need("kv_lora_rank")
    bias = bool(config.get("attention_bias", False))
    if query_rank:
        layout.linear(f"{name}.q_a_proj", "attention", hidden, query_rank, bias)
        layout.norm(f"{name}.q_a_layernorm", query_rank)
        layout.linear(f"{name}.q_b_proj", "attention", query_rank, heads * (plain + rotary))
    else:
        layout.linear(f"{name}.q_proj", "attention", hidden, heads * (plain + rotary))
    layout.linear(f"{name}.kv_a_proj_with_mqa", "attention", hidden, kv_rank + rotary, bias)
    layout.norm(f"{name}.kv_a_layernorm", kv_rank)
    layout.linear(f"{name}.kv_b_proj", "attention", kv_rank, heads * (plain + values))
    layout.linear(f"{name}.o_proj", "attention", heads * values, hidden, bias)
    if family.indexer and _chooses(config, layout.layer):
        _indexer(layout, f"{name}.indexer", query_rank)
    layout.softmax(heads, heads, plain + rotary, values)


def _chooses(config: ConfigReader, layer: int) -> bool:
    """Whether this layer has an indexer; some models take the positions that an earlier layer chose (GLM-5.2)."""
    kinds = config.get("indexer_types") or config.get("index_topk_pattern")
    if isinstance(kinds, list | str) and layer < len(kinds):
        return str(kinds[layer]) not in ("shared", "S")
    every = max(config.count("index_topk_freq", 1), 1)
    return max(layer + 1 - config.count("index_skip_topk_offset", 2), 0) % every == 0


def _indexer(layout: LayoutBuilder, name: str, query_rank: int) -> None:
    """DeepSeek sparse attention: few narrow heads score the positions, the best of which are attended to."""
    hidden, heads, width = (
        layout.config.hidden,
        layout.config.need("index_n_heads"),
        layout.config.need("index_head_dim"),
    )
    layout.linear(f"{name}.wq_b", "attention", query_rank, heads * width)
    layout.linear(f"{name}.wk", "attention", hidden, width)
    layout.norm(f"{name}.k_norm", width, bias=True)
    layout.linear(f"{name}.weights_proj", "attention", hidden, heads)


def gated_delta(layout: LayoutBuilder, family: Family) -> None:
    """Three layers of four are a gated delta net (linear attention), the fourth is softmax attention with a gate."""
    config = layout.config
    if _kind(config, layout.layer) == "full_attention":
        softmax(layout, family)
        return
    hidden, name = config.hidden, "linear_attn"
    key_heads, value_heads = config.need("linear_num_key_heads"), config.need("linear_num_value_heads")
    keys, values = key_heads * config.need("linear_key_head_dim"), value_heads * config.need("linear_value_head_dim")
    if family.fused_qkv_z:
        layout.linear(f"{name}.in_proj_qkvz", "attention", hidden, 2 * keys + 2 * values)
        layout.linear(f"{name}.in_proj_ba", "attention", hidden, 2 * value_heads)
    else:
        layout.linear(f"{name}.in_proj_qkv", "attention", hidden, 2 * keys + values)
        layout.linear(f"{name}.in_proj_z", "attention", hidden, values)
        layout.linear(f"{name}.in_proj_b", "attention", hidden, value_heads)
        layout.linear(f"{name}.in_proj_a", "attention", hidden, value_heads)
    layout.add(f"{name}.conv1d.weight", "other", 2 * keys + values, 1, config.need("linear_conv_kernel_dim"))
    layout.add(f"{name}.dt_bias", "other", value_heads)
    layout.add(f"{name}.A_log", "other", value_heads)
    layout.norm(f"{name}.norm", values // value_heads)
    layout.linear(f"{name}.out_proj", "attention", values, hidden)
    layout.state(value_heads, keys // key_heads, values // value_heads)


def _kind(config: ConfigReader, layer: int) -> str:
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        return str(kinds[layer])
    return "linear_attention" if (layer + 1) % config.count("full_attention_interval", 4) else "full_attention"


def mamba(layout: LayoutBuilder, name: str) -> None:
    """Mamba-2: one projection makes gate, input, B, C and the step sizes of all heads."""
    config = layout.config
    hidden, heads = config.hidden, config.need("mamba_num_heads")
    inner = heads * config.need("mamba_head_dim")
    groups, state = config.need("n_groups", "mamba_n_groups"), config.need("ssm_state_size", "mamba_d_state")
    channels = inner + 2 * groups * state
    bias = bool(config.get("use_bias", config.get("mamba_proj_bias", False)))
    layout.linear(f"{name}.in_proj", "attention", hidden, inner + channels + heads, bias)
    layout.add(f"{name}.conv1d.weight", "other", channels, 1, config.need("conv_kernel", "mamba_d_conv"))
    if config.get("use_conv_bias", True):
        layout.add(f"{name}.conv1d.bias", "other", channels)
    for scalar in ("dt_bias", "A_log", "D"):
        layout.add(f"{name}.{scalar}", "other", heads)
    layout.norm(f"{name}.norm", inner)
    layout.state(heads, state, inner // heads)
    layout.linear(f"{name}.out_proj", "attention", inner, hidden, bias)
