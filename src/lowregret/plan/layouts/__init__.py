"""From a config.json to every weight's shape, for the architectures of transformers. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lowregret.errors import ModelError
from lowregret.plan.layouts.classic import CLASSIC
from lowregret.plan.layouts.families import FAMILIES, Family
from lowregret.plan.layouts.feed_forward import expert_counts, feed_forward
from lowregret.plan.layouts.gemma4 import gemma4
from lowregret.plan.layouts.mixers import gated_delta, latent, softmax
from lowregret.plan.layouts.nemotron_h import nemotron_h
from lowregret.plan.layouts.parts import Config, Parts
from lowregret.plan.shapes import Shapes

__all__ = ["shapes_of"]

_MIXERS: Mapping[str, Callable[[Parts, Family], None]] = {
    "softmax": softmax,
    "latent": latent,
    "gated_delta": gated_delta,
}
_TEXT_KEYS = ("text_config", "llm_config", "language_config")


def shapes_of(values: Mapping[str, Any], name: str, notes: tuple[str, ...] = ()) -> Shapes:
    """The shapes of the model that config.json `values` describes; `name` is what messages call it.

    Of a multimodal model the text model is counted. An unknown `model_type` is laid out like Llama and says so in
    `Shapes.notes`. ModelError: a key that the shapes need is missing (named), or the model is no decoder.
    """
    values, extra = _text_model(values)
    model_type = values.get("model_type")
    if values.get("is_encoder_decoder"):
        raise ModelError(f"{name}: is an encoder-decoder model; only decoder-only causal models work here.")
    if values.get("num_nextn_predict_layers") or values.get("mtp_num_hidden_layers"):
        extra = (*extra, "Layers that only predict further tokens (MTP) are left out: transformers does not load them.")
    notes = (*notes, *extra)
    if model_type in CLASSIC:
        parts = Parts(Config(values, name))
        CLASSIC[str(model_type)](parts)
        return _shapes(parts, parts.config.layers, notes)
    family = FAMILIES.get(str(model_type))
    if family is None:
        family, guess = _guess(values, name)
        notes = (*notes, guess)
    return _build(Config(values, name, family.defaults), family, notes)


def _text_model(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    for key in _TEXT_KEYS:
        inner = values.get(key)
        if not isinstance(inner, Mapping):
            continue
        text = {"model_type": f"{values.get('model_type')}_text", **inner}
        for shared in ("tie_word_embeddings", "dtype", "torch_dtype"):
            if values.get(shared) is not None:
                text[shared] = values[shared]
        return text, (
            f"The text model of a multimodal {values.get('model_type', 'model')}; its other parts are not counted.",
        )
    return values, ()


def _guess(values: Mapping[str, Any], name: str) -> tuple[Family, str]:
    """Like Llama, or like its relative with experts."""
    config = Config(values, name)
    for needed in ("hidden", "layers", "heads"):
        getattr(config, needed)
    config.need("vocab_size")
    sparse = any(values.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    family = replace(FAMILIES["llama"], experts=sparse)
    if values.get("kv_lora_rank"):
        family = replace(family, mixer="latent")
    return family, (
        f"model_type {values.get('model_type')!r} is not known here: counted as if it were laid out like Llama, so "
        "the parameter counts are an estimate."
    )


def _build(config: Config, family: Family, notes: tuple[str, ...]) -> Shapes:
    parts = Parts(config)
    if family.mixer == "nemotron_h":
        layers = nemotron_h(parts, family)
        parts.outside_norm("model.norm_f")
        parts.vocabulary("model.embeddings", "lm_head", tied=False)
        return _shapes(parts, layers, notes)
    if family.mixer == "gemma4":
        gemma4(parts, family)
        parts.outside_norm("model.norm")
        parts.vocabulary("model.embed_tokens", "lm_head", tied=True)
        return _shapes(parts, config.layers, notes)
    mixer = _MIXERS[family.mixer]
    for parts.layer in range(config.layers):
        if family.norm_weights:
            for norm in family.norms:
                parts.norm(norm, bias=family.norm_biases)
        mixer(parts, family)
        feed_forward(parts, family)
    if family.norm_weights:
        parts.outside_norm("model.norm", family.norm_biases)
    parts.vocabulary("model.embed_tokens", "lm_head", tied=False)
    return _shapes(parts, config.layers, notes)


def _shapes(parts: Parts, layers: int, notes: tuple[str, ...]) -> Shapes:
    config, weights = parts.config, parts.weights
    counts = expert_counts(config) if any(weight.kind == "experts" for weight in weights) else (0, 0)
    inner = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner")
    return Shapes(
        name=config.name,
        family=str(config.values.get("model_type", "unknown")),
        hidden_size=config.hidden,
        layers=layers,
        vocabulary=config.need("vocab_size"),
        context=config.get("max_position_embeddings") or config.get("n_positions"),
        intermediate_size=next((config.get(key) for key in inner if config.get(key)), None),
        experts=counts[0],
        active_experts=counts[1],
        weights=weights,
        attention=parts.attention,
        states=parts.states,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch."),
        notes=notes,
    )
