"""The half of a layer that looks at one position: an MLP, or experts of which a router chooses a few."""

from __future__ import annotations

from lowregret.plan.shapes.layouts.builder import ConfigReader, LayoutBuilder
from lowregret.plan.shapes.layouts.families import Family


def feed_forward(layout: LayoutBuilder, family: Family) -> None:
    """Experts where this layer has them, else the dense MLP."""
    if family.experts and has_experts(layout.config, layout.layer):
        experts(layout, family)
    else:
        mlp(layout, family, family.mlp_name, layout.config.need("intermediate_size", "n_inner"))


def has_experts(config: ConfigReader, layer: int) -> bool:
    """Whether this layer is a mixture of experts."""
    kinds = config.get("mlp_layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        return bool(kinds[layer] == "sparse")
    if layer < config.count("first_k_dense_replace") or layer in config.get("mlp_only_layers", ()):
        return False
    return (layer + 1) % (config.count("decoder_sparse_step", 1) or 1) == 0


def mlp(layout: LayoutBuilder, family: Family, name: str, width: int) -> None:
    """Up and down, with a gate beside up in most families; also a shared expert of that name."""
    hidden = layout.config.hidden
    bias = bool(layout.config.get("mlp_bias", False)) if family.mlp_bias is None else family.mlp_bias
    if family.fused_gate_up:
        layout.linear(f"{name}.gate_up_proj", "mlp", hidden, 2 * width, bias)
    else:
        if family.gated:
            layout.linear(f"{name}.gate_proj", "mlp", hidden, width, bias)
        layout.linear(f"{name}.up_proj", "mlp", hidden, width, bias)
    layout.linear(f"{name}.down_proj", "mlp", width, hidden, bias)


def expert_counts(config: ConfigReader) -> tuple[int, int]:
    """Routed experts of a layer, and how many of them a token passes through."""
    every = config.need("num_experts", "num_local_experts", "n_routed_experts")
    return every, config.need("num_experts_per_tok", "experts_per_token", "moe_topk", "top_k_experts")


def experts(layout: LayoutBuilder, family: Family) -> None:
    """The router, every expert, and the shared ones."""
    config = layout.config
    counts = expert_counts(config)
    width = config.need("moe_intermediate_size", "intermediate_size")
    outer = config.count("moe_latent_size") or config.hidden
    layout.add(f"{family.router_name}.weight", "router", counts[0], config.hidden)
    if family.router_bias:
        layout.add(f"{family.router_name}.bias", "router", counts[0])
    # transformers stores gate and up of all experts in one tensor; they are two matrices nonetheless, with an adapter
    # each, as the engine has it.
    for matrix in ("gate_proj", "up_proj") if family.gated else ("up_proj",):
        _expert(layout, family, matrix, outer, width, counts)
    _expert(layout, family, "down_proj", width, outer, counts)
    shared(layout, family, width)


def _expert(layout: LayoutBuilder, family: Family, matrix: str, d_in: int, d_out: int, counts: tuple[int, int]) -> None:
    name = f"{family.experts_name}.{matrix}"
    layout.add(f"{name}.weight", "experts", d_out, d_in, experts=counts)
    if family.expert_bias:
        layout.add(f"{name}.bias", "other", d_out, experts=counts)


def shared(layout: LayoutBuilder, family: Family, width: int) -> None:
    """Experts that every token passes through: the configuration gives one width (Qwen) or a number (DeepSeek)."""
    config, name = layout.config, family.shared_name
    if name is None:
        return
    if one := config.count("shared_expert_intermediate_size"):
        mlp(layout, family, name, one)
        if family.shared_gate:
            layout.add(f"{name}_gate.weight", "router", 1, config.hidden)
    elif number := config.count("n_shared_experts"):
        mlp(layout, family, f"{name}s", number * width)
