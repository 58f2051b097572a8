"""The configuration that a .gguf file states, where transformers' reader takes another for granted.

transformers reads some keys of a file and leaves the rest at its defaults, which are those of one model of the family:
the width of a head, of an expert, a window, a scaling. Each key of the family is put into the configuration here, known
to say nothing of what the model computes, or refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lowregret.errors import ModelError
from lowregret.models.gguf import rope

AS_READ = ("qwen35", "qwen35moe", "lfm2")
"""Families of which transformers' newer reader builds the whole configuration from the file."""
_PLACES: Mapping[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "vocab_size": ("vocab_size",),
    "block_count": ("num_hidden_layers", "n_layer"),
    "embedding_length": ("hidden_size", "n_embd"),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "ssm.conv_kernel": ("conv_kernel",),
    "ssm.state_size": ("state_size",),
    "ssm.time_step_rank": ("time_step_rank",),
    "ssm.inner_size": ("intermediate_size",),
}
"""Where transformers' configurations keep a field: the first of these attributes that there is."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.head_count": (0,),
    "attention.head_count_kv": (0, 1),  # of a family without such a number: one head (Falcon 7B), or none
    "attention.max_alibi_bias": (0.0, 8.0),  # 8 is BLOOM's, which has no such number
    "attention.clamp_kqv": (0.0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "logit_scale": (1.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "use_parallel_residual": (False,),
    "context_length": (None,),
    "ssm.dt_b_c_rms": (False,),
}
"""Values that say nothing where transformers has no place for the field."""
_NAMES = (
    "tensor_data_layout", "attention.key_length", "attention.value_length", "attention.sliding_window_pattern",
    "expert_gating_func", "pooling_type", *rope.FIELDS,
)  # fmt: skip
"""Names, and what is looked at by itself below."""
_OPEN = {
    "bloom": ("context_length", "feed_forward_length"),
    "falcon": ("context_length",),
    "mamba": ("feed_forward_length",),
}
"""Fields that a family writes and that its function does not have."""
_SOFTMAX, _SIGMOID = 1, 2
"""`expert_gating_func` (llama.cpp, `llama_expert_gating_func_type`)."""
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27 B models, whose attention is scaled by hidden size / heads instead of the head's width: no field of
the file says it (llama.cpp, `hparams.f_attention_scale`; `query_pre_attn_scalar` in their config.json)."""


def set_fields(
    config: Any,
    architecture: str,
    metadata: Mapping[str, Any],
    names: Collection[str],
    factors: Mapping[str, rope.Factors],
    name: str,
) -> None:
    """Put what the file states into transformers' `config` of it; ModelError names what has no place there.

    `metadata`: the file's keys; `names`: of its tensors; `factors`: those of them that `rope.TENSORS` lists.
    """
    config.tie_word_embeddings = "output.weight" not in names
    if architecture in AS_READ:
        if stated := [*factors, *(key for key in metadata if ".rope.scaling." in key)]:
            raise ModelError(f"{name}: states {stated[0]}, which transformers does not read. Give the model's folder.")
        return
    prefix = f"{architecture}."
    fields = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    for field, value in fields.items():
        if field not in _NAMES and field not in _OPEN.get(architecture, ()):
            _set(config, field, value, name)
    _set_biases(config, names)
    head_dim = _set_heads(config, architecture, fields, name)
    _set_window(config, fields, name)
    _check_gating(config, fields, name)
    rope.set_rope(config, fields, factors, head_dim, name)


def _set(config: Any, field: str, value: Any, name: str) -> None:
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise ModelError(f"{name}: {field} differs from layer to layer, which transformers' reader does not take.")
        value = value[0]
    place = next((place for place in _PLACES.get(field, ()) if hasattr(config, place)), None)
    if place is None or (field in _NEUTRAL and value in _NEUTRAL[field] and getattr(config, place) is None):
        if value not in _NEUTRAL.get(field, ()):
            raise ModelError(
                f"{name}: states {field} = {value!r}, for which {type(config).__name__} of transformers has no place. "
                "Give the Hugging Face folder of this model."
            )
    elif getattr(config, place) != value:
        setattr(config, place, value)


def _set_biases(config: Any, names: Collection[str]) -> None:
    """Families in which biases are a matter of choice: the file has them or not."""
    for place, tensors in {
        "attention_bias": ("blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.0.attn_v.bias", "blk.0.attn_output.bias"),
        "mlp_bias": ("blk.0.ffn_up.bias", "blk.0.ffn_down.bias", "blk.0.ffn_gate.bias"),
    }.items():
        if hasattr(config, place):
            setattr(config, place, any(tensor in names for tensor in tensors))


def _set_heads(config: Any, architecture: str, fields: Mapping[str, Any], name: str) -> int:
    """The width of a head, which is returned; 0 where there are none."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    plain = int(config.hidden_size) // heads
    own = fields.get("attention.key_length")
    width = int(own or (fields.get("rope.dimension_count") if architecture == "llama" else None) or plain)
    values = fields.get("attention.value_length")
    if values not in (None, width):
        raise ModelError(
            f"{name}: attention.value_length is {values} and attention.key_length {width}; transformers' "
            f"{type(config).__name__} has heads of one width. Give the Hugging Face folder of this model."
        )
    if hasattr(config, "head_dim") or width != plain:
        config.head_dim = width
    if architecture in _LARGE_GEMMA:
        large = config.num_hidden_layers == _LARGE_GEMMA[architecture]
        config.query_pre_attn_scalar = plain if large else width
    return width


def _set_window(config: Any, fields: Mapping[str, Any], name: str) -> None:
    window, pattern = fields.get("attention.sliding_window"), fields.get("attention.sliding_window_pattern")
    if not window:
        if hasattr(config, "sliding_window") and getattr(config, "layer_types", None) is None:
            config.sliding_window = None  # a default of transformers that the file does not state
        return
    if getattr(config, "use_sliding_window", True) is False:
        raise ModelError(f"{name}: states attention.sliding_window = {window}. Give the Hugging Face folder.")
    if pattern is not None and getattr(config, "layer_types", None) is not None:
        layers = range(config.num_hidden_layers)
        slides = pattern if isinstance(pattern, list) else [(layer + 1) % pattern != 0 for layer in layers]
        config.layer_types = ["sliding_attention" if slides[layer] else "full_attention" for layer in layers]


def _check_gating(config: Any, fields: Mapping[str, Any], name: str) -> None:
    gating = fields.get("expert_gating_func")
    by_config = getattr(config, "scoring_func", "softmax")
    if gating is not None and {_SOFTMAX: "softmax", _SIGMOID: "sigmoid"}.get(gating) != by_config:
        raise ModelError(
            f"{name}: states expert_gating_func = {gating}; {type(config).__name__} chooses experts by {by_config}. "
            "Give the Hugging Face folder of this model."
        )
