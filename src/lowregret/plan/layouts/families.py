"""What tells one family of models from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
FOUR_NORMS = (*TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """How the layers of an architecture differ from Llama's, which all defaults describe."""

    mixer: Literal["softmax", "latent", "gated_delta", "nemotron_h"] = "softmax"
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
    sinks: bool = False
    full_attention_every: int = 0
    """Every so many layers one sees all positions, the others a window, unless `layer_types` says otherwise."""

    mlp_name: str = "mlp"
    gated: bool = True
    """The MLP has a gate matrix beside the up matrix."""
    fused_gate_up: bool = False
    mlp_bias: bool | None = None
    """None: as `mlp_bias` says."""
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    """Names of a dense MLP's."""

    experts_name: str = "mlp.experts.*"
    expert_matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    expert_suffix: str = ".weight"
    fused_experts: bool = False
    """Gate and up are one matrix in the checkpoint."""
    expert_bias: bool = False
    router_name: str = "mlp.gate"
    router_bias: bool = False
    shared_gate: bool = False
    """The shared expert's output is scaled by a gate of its own."""

    head_bias: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """transformers' values for keys that public configurations of this family leave out."""


_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, output_bias=False)
_QWEN3 = Family(qk_norm="head")
_QWEN3_MOE = Family(qk_norm="head", experts=True)
_MISTRAL = Family(qkv_bias=False, output_bias=False)
_DEEPSEEK = Family(mixer="latent", experts=True)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": _QWEN3_MOE,
}
