"""The shapes of a .gguf file, from the names and sizes of its tensors; nothing but the header is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.foreign import boundary
from lowregret.models.gguf.header import Header, Tensor, read_header
from lowregret.plan.shapes.layouts.builder import LAYER, ConfigReader
from lowregret.plan.shapes.layouts.families import FAMILIES, Family
from lowregret.plan.shapes.layouts.mixers import window
from lowregret.plan.shapes.weights import AttentionLayers, Shapes, Weight, WeightKind

_DTYPES = {0: "float32", 1: "float16", 30: "bfloat16"}
_FAMILY_NAMES = {
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text",
    "gemma3": "gemma3_text",
    "gpt-oss": "gpt_oss",
    "deepseek2": "deepseek_v3",
    "nemotron_h_moe": "nemotron_h",
}
_BUFFERS = ("rope_freqs", "rope_factors_long", "rope_factors_short", "exp_probs_b")
"""Stored, but no parameters."""
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_gate", "attn_q_a", "attn_q_b", "attn_k_b")
_MIXERS = (
    *_ATTENTION,
    "attn_v_b",
    "attn_kv_a_mqa",
    "attn_kv_b",
    "ssm_in",
    "ssm_out",
    "ssm_ba",
    "ssm_alpha",
    "ssm_beta",
)
_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
} | {
    f"ffn_{part}{suffix}": f"mlp.{block}{part}_proj"
    for part in ("gate", "up", "down")
    for suffix, block in (("", ""), ("_exps", "experts.*."), ("_shexp", "shared_expert."))
}
"""What transformers, which loads the file, calls the modules."""


def read_gguf(path: Path, name: str) -> Shapes:
    """The shapes of the model in the .gguf file at `path`, all its parts, which messages call `name`.

    ModelError: as `read_header`, and for tensors that make no model.
    """
    header = read_header(path, name)
    with boundary(ModelError, name, "its header cannot be understood", "Fetch it again, or give another file."):
        return _shapes(path, name, header)


def _shapes(path: Path, name: str, header: Header) -> Shapes:
    architecture, fields, tensors = header.architecture, header.fields, header.tensors
    embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
    weights, experts = _weights(tensors)
    model_type = _FAMILY_NAMES.get(architecture, architecture.replace("-", "_"))
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        sizes[tensor.type] += Weight("", "other", tensor.shape, 1, 1).size
    main = sizes.most_common(1)[0][0]
    chosen = fields.get("expert_used_count") or 0
    parts = f" and its {len(header.parts) - 1} other parts" if len(header.parts) > 1 else ""
    return Shapes(
        name=name,
        family=model_type,
        hidden_size=embedding.shape[-1],
        layers=fields["block_count"],
        vocabulary=embedding.shape[0],
        context=fields.get("context_length"),
        intermediate_size=_one(fields.get("feed_forward_length")) or fields.get("expert_feed_forward_length"),
        experts=experts,
        active_experts=chosen if experts else 0,
        weights=tuple(_activate(weight, experts, chosen) for weight in weights),
        attention=_attention(fields, tensors, FAMILIES.get(model_type, FAMILIES["llama"])),
        dtype=_DTYPES.get(main, "quantized"),
        notes=(f"Shapes from the header of {path.name}{parts}.",),
    )


def _weights(tensors: Sequence[Tensor]) -> tuple[list[Weight], int]:
    """The tensors as weights, and how many experts a layer has."""
    layers: dict[tuple[str, WeightKind, tuple[int, ...]], list[int]] = {}
    outside: list[Weight] = []
    experts = 0
    for tensor in tensors:
        block, _, rest = tensor.name.partition(".")
        if block in _BUFFERS or rest.split(".")[-2:][0] in _BUFFERS:
            continue
        if block != "blk":
            outside.append(_outside(tensor))
            continue
        number, _, part = rest.partition(".")
        shape, kind = tensor.shape, _kind(part, tensor.shape)
        if "_exps." in part:
            experts, shape = shape[0], shape[1:]
        stem, _, end = part.partition(".")
        name = f"{LAYER}{_MODULES.get(stem, stem)}.{end}"
        layers.setdefault((name, kind, shape), []).append(int(number))
    if not any(weight.kind == "unembedding" for weight in outside):
        embedding = next(weight for weight in outside if weight.kind == "embedding")
        outside.append(Weight("lm_head.weight", "unembedding", embedding.shape, 1, 1, tied=True))
    inside = [
        Weight(name, kind, shape, len(numbers), len(numbers), layers=tuple(numbers))
        for (name, kind, shape), numbers in layers.items()
    ]
    return [*inside, *outside], experts


def _outside(tensor: Tensor) -> Weight:
    named: Mapping[str, tuple[str, WeightKind]] = {
        "token_embd.weight": ("model.embed_tokens.weight", "embedding"),
        "output.weight": ("lm_head.weight", "unembedding"),
    }
    name, kind = named.get(tensor.name, (tensor.name, "other"))
    return Weight(name, kind, tensor.shape, 1, 1)


def _kind(part: str, shape: tuple[int, ...]) -> WeightKind:
    stem, _, end = part.partition(".")
    if stem.startswith("ffn_gate_inp"):
        return "router"
    if end != "weight" or len(shape) < 2:
        return "other"
    if stem.endswith("_exps"):
        return "experts"
    if stem in _MIXERS:
        return "attention"
    return "mlp" if stem.startswith("ffn_") and "norm" not in stem else "other"


def _activate(weight: Weight, experts: int, chosen: int) -> Weight:
    """Experts, and their biases, are there many times in each layer."""
    if ".experts." not in weight.name:
        return weight
    layers = len(weight.layers)
    return Weight(weight.name, weight.kind, weight.shape, layers * experts, layers * chosen, layers=weight.layers)


def _attention(fields: Mapping[str, Any], tensors: Sequence[Tensor], family: Family) -> tuple[AttentionLayers, ...]:
    groups: Counter[tuple[int, int, int, int, int | None]] = Counter()
    pattern = fields.get("attention.sliding_window_pattern")
    values: dict[str, Any] = {"sliding_window": fields.get("attention.sliding_window")}
    if isinstance(pattern, list):
        values["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in pattern]
    elif isinstance(pattern, int):
        values["sliding_window_pattern"] = pattern
    for layer in _softmax_layers(tensors):
        heads = _one(fields.get("attention.head_count"), layer)
        kv_heads = _one(fields.get("attention.head_count_kv"), layer) or heads
        plain = fields.get("embedding_length", 0) // heads if heads else 0
        key = fields.get("attention.key_length_mla") or fields.get("attention.key_length") or plain
        value = fields.get("attention.value_length_mla") or fields.get("attention.value_length") or plain
        groups[(heads, kv_heads, key, value, window(ConfigReader(values, ""), family, layer))] += 1
    return tuple(AttentionLayers(layers, *key) for key, layers in groups.items())


def _softmax_layers(tensors: Sequence[Tensor]) -> Iterator[int]:
    seen = set()
    for tensor in tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk" and parts[2] == "attn_output" and parts[1] not in seen:
            seen.add(parts[1])
            yield int(parts[1])


def _one(value: Any, layer: int = 0) -> int:
    """A number that may be given for each layer."""
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else 0
    return int(value or 0)
