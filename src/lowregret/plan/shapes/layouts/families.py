"""What tells one family of models from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
FOUR_NORMS = (*TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """How the layers of an architecture differ from Llama's, which all defaults describe."""

    mixer: Literal["softmax", "latent", "gated_delta", "nemotron_h", "gemma4"] = "softmax"
    experts: bool = False
    """Layers have experts where the configuration does not say that they are dense."""

    norms: tuple[str, ...] = TWO_NORMS
    norm_weights: bool = True
    norm_biases: bool = False

    attention_name: str = "self_attn"
    output_name: str = "o_proj"
    qkv_bias: bool | None = None
    """None: as `attention_bias` says."""
    output_bias: bool | None = None
    fused_qkv: bool = False
    fused_qkv_z: bool = False
    """Of the linear attention."""
    gated_output: bool = False
    """The query projection makes a gate of the same width for the attention's output."""
    qk_norm: Literal["none", "head", "all", "asked"] = "none"
    """Over one head, over all heads together, or over one head where `use_qk_norm` says so."""
    attention_gate: bool = False
    """A matrix of its own makes a gate for the attention's output."""
    sinks: bool = False
    indexer: bool = False
    """Latent attention looks only at the positions that a small attention of its own chooses."""
    full_attention_every: int = 0
    """Every so many layers one sees all positions, the others a window, unless `layer_types` says otherwise."""

    mlp_name: str = "mlp"
    gated: bool = True
    """The MLP has a gate matrix beside the up matrix."""
    fused_gate_up: bool = False
    mlp_bias: bool | None = None
    """None: as `mlp_bias` says."""
    experts_name: str = "mlp.experts.*"
    expert_bias: bool = False
    router_name: str = "mlp.gate"
    router_bias: bool = False
    shared_name: str | None = "mlp.shared_expert"
    """None: the layout adds shared experts itself."""
    shared_gate: bool = False
    """The shared expert's output is scaled by a gate of its own."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """transformers' values for keys that public configurations of this family leave out."""


_LLAMA = Family()
_NO_WINDOW = {"use_sliding_window": False}
_QWEN2 = Family(qkv_bias=True, output_bias=False, defaults=_NO_WINDOW)
_QWEN3 = Family(qk_norm="head", defaults=_NO_WINDOW)
_MISTRAL = Family(qkv_bias=False, output_bias=False)
_GEMMA = Family(defaults={"tie_word_embeddings": True, "head_dim": 256})
_GEMMA3 = Family(
    norms=FOUR_NORMS,
    qk_norm="head",
    full_attention_every=6,
    defaults={
        "tie_word_embeddings": True,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
)
_GEMMA4 = Family(
    mixer="gemma4",
    full_attention_every=6,
    experts_name="experts.*",
    router_name="router.proj",
    shared_name=None,
    defaults={
        "tie_word_embeddings": True,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 512,
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 262_144,
    },
)
_QWEN3_MOE = replace(_QWEN3, experts=True)
_QWEN3_NEXT = Family(
    mixer="gated_delta", qk_norm="head", gated_output=True, experts=True, fused_qkv_z=True, shared_gate=True
)
_QWEN3_5 = Family(mixer="gated_delta", qk_norm="head", gated_output=True)
_DEEPSEEK = Family(mixer="latent", experts=True)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "smollm3": replace(_LLAMA, defaults=_NO_WINDOW),
    "granite": _LLAMA,
    "mistral": replace(_MISTRAL, defaults={"sliding_window": 4096}),
    "ministral": replace(_MISTRAL, defaults={"sliding_window": 4096}),
    "ministral3": _MISTRAL,
    "mistral4": _DEEPSEEK,
    "mixtral": replace(_MISTRAL, experts=True),
    "qwen2": _QWEN2,
    "qwen2_moe": replace(_QWEN2, experts=True, shared_gate=True),
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": _QWEN3_MOE,
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_5_text": _QWEN3_5,
    "qwen3_5_moe_text": replace(_QWEN3_5, experts=True, shared_gate=True),
    "gemma": _GEMMA,
    "gemma2": replace(
        _GEMMA, norms=FOUR_NORMS, full_attention_every=2, defaults={**_GEMMA.defaults, "sliding_window": 4096}
    ),
    "gemma3_text": _GEMMA3,
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "phi3": Family(qkv_bias=False, output_bias=False, fused_qkv=True, fused_gate_up=True),
    "phimoe": Family(experts=True, norm_biases=True, router_name="mlp.router"),
    "olmo": Family(norm_weights=False, mlp_bias=False),
    "olmo2": Family(norms=POST_NORMS, qk_norm="all"),
    "olmo3": Family(norms=POST_NORMS, qk_norm="all", full_attention_every=4, defaults={"sliding_window": 4096}),
    "olmoe": Family(qk_norm="all", experts=True),
    "gpt_oss": Family(
        qkv_bias=True,
        output_bias=True,
        sinks=True,
        full_attention_every=2,
        experts=True,
        expert_bias=True,
        router_name="mlp.router",
        router_bias=True,
        defaults={"sliding_window": 128, "head_dim": 64},
    ),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": replace(_DEEPSEEK, indexer=True, defaults={"index_n_heads": 64, "index_head_dim": 128}),
    "kimi_k2": _DEEPSEEK,
    "youtu": replace(_DEEPSEEK, experts=False, defaults={"tie_word_embeddings": True}),
    "glm4": Family(
        norms=(*TWO_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm"), output_bias=False, fused_gate_up=True
    ),
    "glm4_moe": Family(qk_norm="asked", output_bias=False, experts=True),
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": replace(_DEEPSEEK, indexer=True, defaults={"index_n_heads": 32, "index_head_dim": 128}),
    "minimax_m2": replace(_MISTRAL, qk_norm="all", experts=True),
    "exaone4": Family(norms=POST_NORMS, qk_norm="head", full_attention_every=4),
    "hunyuan_v1_dense": _QWEN3,
    "seed_oss": Family(output_bias=False),
    "iquestcoder": _LLAMA,
    "internlm3": _LLAMA,
    "solar_open": Family(output_bias=False, experts=True),
    "mellum": replace(_QWEN3, experts=True, full_attention_every=4, defaults={}),
    "muse_glimmer_text": Family(
        norms=FOUR_NORMS, attention_gate=True, full_attention_every=4, defaults={"sliding_window": 2048}
    ),
    "arcee": Family(gated=False),
    "cohere2": Family(
        norms=("input_layernorm",),
        full_attention_every=4,
        defaults={"tie_word_embeddings": True, "sliding_window": 4096},
    ),
    "nemotron_h": Family(
        mixer="nemotron_h",
        norms=("norm",),
        attention_name="mixer",
        gated=False,
        mlp_name="mixer",
        experts=True,
        experts_name="mixer.experts.*",
        router_name="mixer.gate",
    ),
}
"""By transformers' `model_type` of the text model."""
