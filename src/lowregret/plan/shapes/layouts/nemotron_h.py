"""Nemotron-H: every layer is one norm and one mixer, which is Mamba-2, attention, an MLP or experts."""

from __future__ import annotations

from dataclasses import replace

from lowregret.errors import ModelError
from lowregret.plan.shapes.layouts.builder import ConfigReader, LayoutBuilder
from lowregret.plan.shapes.layouts.families import Family
from lowregret.plan.shapes.layouts.feed_forward import experts, mlp
from lowregret.plan.shapes.layouts.mixers import mamba, softmax

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_RENAMED = {"linear_attention": "mamba", "full_attention": "attention"}


def _layer_kinds(config: ConfigReader) -> list[str]:
    """`mamba`, `attention`, `mlp` or `moe` for each layer: a list of names, or a string of one letter a layer."""
    names = config.get("layers_block_type") or config.get("layer_types")
    pattern = config.get("hybrid_override_pattern")
    if isinstance(names, list):
        kinds = [_RENAMED.get(str(name), str(name)) for name in names]
    elif isinstance(pattern, str):
        kinds = [_LETTERS.get(letter, letter) for letter in pattern]
    else:
        raise ModelError(
            f"{config.name}: its configuration has no layers_block_type and no hybrid_override_pattern, so the kinds "
            "of its layers cannot be told."
        )
    for kind in kinds:
        if kind not in _LETTERS.values():
            raise ModelError(f"{config.name}: its configuration names a layer {kind!r}, which is not known here.")
    return kinds


def nemotron_h(layout: LayoutBuilder, family: Family) -> int:
    """Every layer; returns how many there are, which `num_hidden_layers` need not say."""
    config = layout.config
    kinds = _layer_kinds(config)
    for layout.layer, kind in enumerate(kinds):
        layout.norm("norm")
        if kind == "mamba":
            mamba(layout, "mixer")
        elif kind == "attention":
            softmax(layout, family)
        elif kind == "mlp":
            mlp(layout, family, "mixer", config.need("intermediate_size"))
        else:
            _experts(layout, family)
    return len(kinds)


def _experts(layout: LayoutBuilder, family: Family) -> None:
    """Experts that may work on a narrower vector than the residual stream, and one shared expert that does not."""
    config = layout.config
    experts(layout, replace(family, shared_name=None))
    mlp(layout, family, "mixer.shared_experts", config.need("moe_shared_expert_intermediate_size"))
    if latent := config.count("moe_latent_size"):
        bias = bool(config.get("mlp_bias", False))
        layout.linear("mixer.fc1_latent_proj", "mlp", config.hidden, latent, bias)
        layout.linear("mixer.fc2_latent_proj", "mlp", latent, config.hidden, bias)
