"""From a config.json to every weight's shape, for the architectures of transformers. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lowregret.errors import ModelError
from lowregret.foreign import boundary
from lowregret.models.context import positions
from lowregret.plan.shapes.layouts.builder import ConfigReader, LayoutBuilder
from lowregret.plan.shapes.layouts.classic import CLASSIC
from lowregret.plan.shapes.layouts.families import FAMILIES, Family
from lowregret.plan.shapes.layouts.feed_forward import expert_counts, feed_forward
from lowregret.plan.shapes.layouts.gemma4 import gemma4
from lowregret.plan.shapes.layouts.mixers import gated_delta, latent, softmax
from lowregret.plan.shapes.layouts.nemotron_h import nemotron_h
from lowregret.plan.shapes.weights import Shapes

__all__ = ["shapes_of"]

_MIXERS: Mapping[str, Callable[[LayoutBuilder, Family], None]] = {
    "softmax": softmax,
    "latent": latent,
    "gated_delta": gated_delta,
}
_TEXT_KEYS = ("text_config", "llm_config", "language_config")


def shapes_of(values: Mapping[str, Any], name: str, notes: tuple[str, ...] = ()) -> Shapes:
    """The shapes of the model that config.json `values` describes; `name` is what messages call it.

    Of a multimodal model the text model is counted. An unknown `model_type` is laid out like Llama and says so in
    `Shapes.notes`. ModelError: a key that the shapes need is missing (named) or of another kind, or the model is no
    decoder.
    """
    with boundary(ModelError, name, "its configuration cannot be understood", "Fetch its config.json again."):
        return _from_values(values, name, notes)


def _from_values(values: Mapping[str, Any], name: str, notes: tuple[str, ...]) -> Shapes:
    values, extra = _text_model(values)
    model_type = values.get("model_type")
    if values.get("is_encoder_decoder"):
        raise ModelError(f"{name}: is an encoder-decoder model; only decoder-only causal models work here.")
    if values.get("num_nextn_predict_layers") or values.get("mtp_num_hidden_layers"):
        extra = (*extra, "Layers that only predict further tokens (MTP) are left out: transformers does not load them.")
    notes = (*notes, *extra)
    if model_type in CLASSIC:
        layout = LayoutBuilder(ConfigReader(values, name))
        CLASSIC[str(model_type)](layout)
        return _shapes(layout, layout.config.layers, notes)
    family = FAMILIES.get(str(model_type))
    if family is None:
        family, guess = _guess(values, name)
        notes = (*notes, guess)
    return _build(ConfigReader(values, name, family.defaults), family, notes)


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
    config = ConfigReader(values, name)
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


def _build(config: ConfigReader, family: Family, notes: tuple[str, ...]) -> Shapes:
    layout = LayoutBuilder(config)
    if family.mixer == "nemotron_h":
        layers = nemotron_h(layout, family)
        layout.outside_norm("model.norm_f")
        layout.vocabulary("model.embeddings", "lm_head", tied=False)
        return _shapes(layout, layers, notes)
    if family.mixer == "gemma4":
        gemma4(layout, family)
        layout.outside_norm("model.norm")
        layout.vocabulary("model.embed_tokens", "lm_head", tied=True)
        return _shapes(layout, config.layers, notes)
    mixer = _MIXERS[family.mixer]
    for layout.layer in range(config.layers):
        if family.norm_weights:
            for norm in family.norms:
                layout.norm(norm, bias=family.norm_biases)
        mixer(layout, family)
        feed_forward(layout, family)
    if family.norm_weights:
        layout.outside_norm("model.norm", family.norm_biases)
    layout.vocabulary("model.embed_tokens", "lm_head", tied=False)
    return _shapes(layout, config.layers, notes)


def _shapes(layout: LayoutBuilder, layers: int, notes: tuple[str, ...]) -> Shapes:
    config, weights = layout.config, layout.weights
    counts = expert_counts(config) if any(weight.kind == "experts" for weight in weights) else (0, 0)
    inner = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner")
    return Shapes(
        name=config.name,
        family=str(config.values.get("model_type", "unknown")),
        hidden_size=config.hidden,
        layers=layers,
        vocabulary=config.need("vocab_size"),
        context=positions({**config.defaults, **config.values}),
        intermediate_size=next((config.get(key) for key in inner if config.get(key)), None),
        experts=counts[0],
        active_experts=counts[1],
        weights=weights,
        attention=layout.attention,
        states=layout.states,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch."),
        notes=notes,
    )
