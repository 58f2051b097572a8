"""Nemotron-H: every layer is one norm and one mixer, which is Mamba-2, attention, an MLP or experts."""

from __future__ import annotations

from dataclasses import replace

from lowregret.errors import ModelError
from lowregret.plan.layouts.families import Family
from lowregret.plan.layouts.feed_forward import experts, mlp
from lowregret.plan.layouts.mixers import mamba, softmax
from lowregret.plan.layouts.parts import Config, Parts

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_RENAMED = {"linear_attention": "mamba", "full_attention": "attention"}


def _layer_kinds(config: Config) -> list[str]:
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


def nemotron_h(parts: Parts, family: Family) -> int:
    """Every layer; returns how many there are, which `num_hidden_layers` need not say."""
    config = parts.config
    kinds = _layer_kinds(config)
    for parts.layer, kind in enumerate(kinds):
        parts.norm("norm")
        if kind == "mamba":
            mamba(parts, "mixer")
        elif kind == "attention":
            softmax(parts, family)
        elif kind == "mlp":
            mlp(parts, family, "mixer", config.need("intermediate_size"))
        else:
            _experts(parts, family)
    return len(kinds)


def _experts(parts: Parts, family: Family) -> None:
    """Experts that may work on a narrower vector than the residual stream, and one shared expert that does not."""
    config = parts.config
    experts(parts, replace(family, shared_name=None))
    mlp(parts, family, "mixer.shared_experts", config.need("moe_shared_expert_intermediate_size"))
    if latent := config.count("moe_latent_size"):
        bias = bool(config.get("mlp_bias", False))
        parts.linear("mixer.fc1_latent_proj", "mlp", config.hidden, latent, bias)
        parts.linear("mixer.fc2_latent_proj", "mlp", latent, config.hidden, bias)
