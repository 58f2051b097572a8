"""The layouts from before Llama: biases everywhere, MLPs without a gate, learned positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowregret.plan.shapes.layouts.builder import LayoutBuilder


def gpt2(layout: LayoutBuilder) -> None:
    """GPT-2: queries, keys and values in one matrix."""
    config = layout.config
    hidden, layout.prefix = config.hidden, "transformer.h.*."
    inner = config.get("n_inner") or 4 * hidden
    for layout.layer in range(config.layers):
        layout.norm("ln_1", bias=True)
        layout.norm("ln_2", bias=True)
        layout.linear("attn.c_attn", "attention", hidden, 3 * hidden, bias=True)
        layout.linear("attn.c_proj", "attention", hidden, hidden, bias=True)
        layout.linear("mlp.c_fc", "mlp", hidden, inner, bias=True)
        layout.linear("mlp.c_proj", "mlp", inner, hidden, bias=True)
        layout.softmax(config.heads, config.heads, hidden // config.heads, hidden // config.heads)
    layout.outside("transformer.wpe.weight", "embedding", config.need("n_positions", "max_position_embeddings"), hidden)
    layout.outside_norm("transformer.ln_f", bias=True)
    layout.vocabulary("transformer.wte", "lm_head", tied=True)


def gpt_neox(layout: LayoutBuilder) -> None:
    """GPT-NeoX and Pythia: queries, keys and values in one matrix, rotary positions."""
    config = layout.config
    hidden, inner, layout.prefix = config.hidden, config.need("intermediate_size"), "gpt_neox.layers.*."
    bias = bool(config.get("attention_bias", True))
    for layout.layer in range(config.layers):
        layout.norm("input_layernorm", bias=True)
        layout.norm("post_attention_layernorm", bias=True)
        layout.linear("attention.query_key_value", "attention", hidden, 3 * hidden, bias)
        layout.linear("attention.dense", "attention", hidden, hidden, bias)
        layout.linear("mlp.dense_h_to_4h", "mlp", hidden, inner, bias=True)
        layout.linear("mlp.dense_4h_to_h", "mlp", inner, hidden, bias=True)
        layout.softmax(config.heads, config.heads, hidden // config.heads, hidden // config.heads)
    layout.outside_norm("gpt_neox.final_layer_norm", bias=True)
    layout.vocabulary("gpt_neox.embed_in", "embed_out", tied=False)


def opt(layout: LayoutBuilder) -> None:
    """OPT: token vectors may be narrower than the residual stream."""
    config = layout.config
    hidden, inner, layout.prefix = config.hidden, config.need("ffn_dim"), "model.decoder.layers.*."
    bias = bool(config.get("enable_bias", True))
    for layout.layer in range(config.layers):
        for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout.linear(f"self_attn.{matrix}", "attention", hidden, hidden, bias)
        layout.norm("self_attn_layer_norm", bias=True)
        layout.norm("final_layer_norm", bias=True)
        layout.linear("fc1", "mlp", hidden, inner, bias)
        layout.linear("fc2", "mlp", inner, hidden, bias)
        layout.softmax(config.heads, config.heads, hidden // config.heads, hidden // config.heads)
    # The first two positions are never used, but are there.
    layout.outside(
        "model.decoder.embed_positions.weight", "embedding", config.need("max_position_embeddings") + 2, hidden
    )
    if config.get("do_layer_norm_before", True) and not config.get("_remove_final_layer_norm", False):
        layout.outside_norm("model.decoder.final_layer_norm", bias=True)
    narrow = config.get("word_embed_proj_dim") or hidden
    if narrow != hidden:
        layout.outside("model.decoder.project_in.weight", "other", hidden, narrow)
        layout.outside("model.decoder.project_out.weight", "other", narrow, hidden)
    layout.vocabulary("model.decoder.embed_tokens", "lm_head", tied=True, width=narrow)


CLASSIC: Mapping[str, Callable[[LayoutBuilder], None]] = {"gpt2": gpt2, "gpt_neox": gpt_neox, "opt": opt}
"""By `model_type`; each writes everything, the weights outside of the layers too."""
