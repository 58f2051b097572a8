"""The layouts from before Llama: biases everywhere, MLPs without a gate, learned positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowregret.plan.layouts.parts import Parts


def gpt2(parts: Parts) -> None:
    """GPT-2: queries, keys and values in one matrix."""
    config = parts.config
    hidden, parts.prefix = config.hidden, "transformer.h.*."
    inner = config.get("n_inner") or 4 * hidden
    for parts.layer in range(config.layers):
        parts.norm("ln_1", bias=True)
        parts.norm("ln_2", bias=True)
        parts.linear("attn.c_attn", "attention", hidden, 3 * hidden, bias=True)
        parts.linear("attn.c_proj", "attention", hidden, hidden, bias=True)
        parts.linear("mlp.c_fc", "mlp", hidden, inner, bias=True)
        parts.linear("mlp.c_proj", "mlp", inner, hidden, bias=True)
        parts.softmax(config.heads, config.heads, hidden // config.heads, hidden // config.heads)
    parts.outside("transformer.wpe.weight", "embedding", config.need("n_positions", "max_position_embeddings"), hidden)
    parts.outside_norm("transformer.ln_f", bias=True)
    parts.vocabulary("transformer.wte", "lm_head", tied=True)


def gpt_neox(parts: Parts) -> None:
    """GPT-NeoX and Pythia: queries, keys and values in one matrix, rotary positions."""
    config = parts.config
    hidden, inner, parts.prefix = config.hidden, config.need("intermediate_size"), "gpt_neox.layers.*."
    bias = bool(config.get("attention_bias", True))
    for parts.layer in range(config.layers):
        parts.norm("input_layernorm", bias=True)
        parts.norm("post_attention_layernorm", bias=True)
        parts.linear("attention.query_key_value", "attention", hidden, 3 * hidden, bias)
        parts.linear("attention.dense", "attention", hidden, hidden, bias)
        parts.linear("mlp.dense_h_to_4h", "mlp", hidden, inner, bias=True)
        parts.linear("mlp.dense_4h_to_h", "mlp", inner, hidden, bias=True)
        parts.softmax(config.heads, config.heads, hidden // config.heads, hidden // config.heads)
    parts.outside_norm("gpt_neox.final_layer_norm", bias=True)
    parts.vocabulary("gpt_neox.embed_in", "embed_out", tied=False)


def opt(parts: Parts) -> None:
    """OPT: token vectors may be narrower than the residual stream."""
    config = parts.config
    hidden, inner, parts.prefix = config.hidden, config.need("ffn_dim"), "model.decoder.layers.*."
    bias = bool(config.get("enable_bias", True))
    for parts.layer in range(config.layers):
        for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
            parts.linear(f"self_attn.{matrix}", "attention", hidden, hidden, bias)
        parts.norm("self_attn_layer_norm", bias=True)
        parts.norm("final_layer_norm", bias=True)
        parts.linear("fc1", "mlp", hidden, inner, bias)
        parts.linear("fc2", "mlp", inner, hidden, bias)
        parts.softmax(config.heads, config.heads, hidden // config.heads, hidden // config.heads)
    # The first two positions are never used, but are there.
    parts.outside(
        "model.decoder.embed_positions.weight", "embedding", config.need("max_position_embeddings") + 2, hidden
    )
    if config.get("do_layer_norm_before", True) and not config.get("_remove_final_layer_norm", False):
        parts.outside_norm("model.decoder.final_layer_norm", bias=True)
    narrow = config.get("word_embed_proj_dim") or hidden
    if narrow != hidden:
        parts.outside("model.decoder.project_in.weight", "other", hidden, narrow)
        parts.outside("model.decoder.project_out.weight", "other", narrow, hidden)
    parts.vocabulary("model.decoder.embed_tokens", "lm_head", tied=True, width=narrow)


CLASSIC: Mapping[str, Callable[[Parts], None]] = {"gpt2": gpt2, "gpt_neox": gpt_neox, "opt": opt}
"""By `model_type`; each writes everything, the weights outside of the layers too."""
