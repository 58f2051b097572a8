"""Every model of the catalogue, weight by weight, against transformers' own class on the meta device."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lowregret.plan.shapes.catalogue.entries import CatalogueEntry, entries
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.lookup import find_model, from_catalogue
from lowregret.plan.shapes.weights import Shapes

_SAME_CLASS = {"kimi_k2": "deepseek_v3", "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe"}
"""Text models that are another class's (Kimi-K2 names DeepseekV3ForCausalLM itself), or that cannot stand alone."""
_FULL = ("full_attention", "indexed_attention")
_NOT_SHAPES = ("max_position_embeddings", "torch_dtype", "sliding_window")


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    outer = {key: config[key] for key in ("tie_word_embeddings", "torch_dtype") if key in config}
    return dict(config["text_config"]) | outer if "text_config" in config else dict(config)


def _distinct() -> Iterator[CatalogueEntry]:
    """One entry for each set of shapes; those that only differ in context are one."""
    seen = set()
    for entry in entries():
        key = repr(sorted((k, v) for k, v in _text(entry.config).items() if k not in _NOT_SHAPES))
        if key not in seen:
            seen.add(key)
            yield entry


def _transformers_config(entry: CatalogueEntry) -> PretrainedConfig:
    values = _text(entry.config)
    model_type = values.pop("model_type")
    model_type = _SAME_CLASS.get(model_type, model_type)
    assert model_type in CONFIG_MAPPING, "transformers does not know this model: no oracle"
    config: PretrainedConfig = AutoConfig.for_model(model_type, **values)
    return config


_NO_TEXT_CLASS = {"mistral4": None, "muse_glimmer_text": "muse_glimmer"}
"""Text models that AutoModelForCausalLM does not know, and the model that transformers has them within, if it must."""


def _parameters(config: PretrainedConfig) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """transformers' model on the meta device, and what of it is the text model, by name."""
    outer = _NO_TEXT_CLASS.get(config.model_type)
    whole = config if outer is None else AutoConfig.for_model(outer, text_config=config.to_dict())
    loader = AutoModelForImageTextToText if config.model_type in _NO_TEXT_CLASS else AutoModelForCausalLM
    with torch.device("meta"):
        model = loader.from_config(whole)
    named = dict(model.named_parameters())
    if outer is not None:
        named = {name: p for name, p in named.items() if name.startswith(("model.language_model.", "lm_head."))}
    return model, named


def _kind(name: str, shape: tuple[int, ...]) -> str:
    """What a parameter of transformers is, told by its name alone."""
    if re.search(r"\b(router|router\.proj|gate|shared_expert_gate)\.(weight|bias)$", name):
        return "router"
    if name.endswith("bias") or len(shape) == 1 or "conv1d" in name:
        return "other"
    if ".experts." in name:
        return "experts"
    if re.search(r"embed_tokens|embed_positions|embed_in|\bembeddings\b|\bw[tp]e\b", name):
        return "embedding"
    if name.startswith(("lm_head", "embed_out")):
        return "unembedding"
    if "per_layer_model_projection" in name:
        return "other"
    if re.search(r"attn|attention|mixer\.(in|out|q|k|v|o)_proj", name):
        return "attention"
    return "mlp"


def _check(shapes: Shapes, config: PretrainedConfig) -> None:
    """Every weight outside of the experts one by one, the experts by their sum, and what a token uses."""
    model, parameters = _parameters(config)
    named = [
        (name, _kind(name.removeprefix("model.language_model."), tuple(p.shape)), p) for name, p in parameters.items()
    ]

    theirs = Counter((kind, _flat(p.shape)) for name, kind, p in named if ".experts." not in name)
    ours: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for weight in shapes.weights:
        if ".experts." not in weight.name and not weight.tied:
            ours[(weight.kind, _flat(weight.shape))] += weight.copies
    assert ours == theirs

    experts = sum(p.numel() for _, kind, p in named if kind == "experts")
    assert shapes.by_kind().get("experts", 0) == experts
    assert shapes.total == sum(p.numel() for p in parameters.values())
    routed = sum(p.numel() for name, _, p in named if ".experts." in name)
    unused = routed * (shapes.experts - shapes.active_experts) // max(shapes.experts, 1)
    assert shapes.active == shapes.total - unused
    assert any(w.tied for w in shapes.weights) == (model.get_output_embeddings().weight is _embedding(model))


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """GPT-2 stores its matrices transposed."""
    return tuple(sorted(shape))


def _embedding(model: Any) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = model.get_input_embeddings().weight
    return weight


@pytest.mark.parametrize("entry", list(_distinct()), ids=lambda entry: entry.name)
def test_a_catalogue_model_is_transformers_weight_by_weight(entry: CatalogueEntry) -> None:
    config = _transformers_config(entry)
    shapes = from_catalogue(entry)
    _check(shapes, config)
    # What transformers saves has every key, and others than the maker's config.json.
    saved = shapes_of(config.to_dict(), entry.name)
    assert Counter(saved.weights) == Counter(shapes.weights)
    assert Counter(saved.attention) == Counter(shapes.attention)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        sliding = sum(group.layers for group in shapes.attention if group.window is not None)
        full = sum(group.layers for group in shapes.attention if group.window is None)
        assert (sliding, full) == (kinds.count("sliding_attention"), sum(kinds.count(kind) for kind in _FULL))


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_neox", "opt", "qwen3_moe", "mixtral"]
)
def test_a_small_base_of_the_tests_is_transformers(architecture: str, bases: ModuleType) -> None:
    config = bases.small_config(architecture)
    _check(shapes_of(config.to_dict(), architecture), config)


_SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "pad_token_id": None,
}
_FEW = {"num_experts_per_tok": 2, "moe_intermediate_size": 20}
_LATENT = {"q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
_SHARED = _FEW | _LATENT | {"n_routed_experts": 4, "index_n_heads": 2, "index_head_dim": 8}
_UNCATALOGUED: dict[str, dict[str, Any]] = {
    "ministral": {},
    "exaone4": {"sliding_window": 16},
    "hunyuan_v1_dense": {"attention_bias": True},
    "solar_open": _FEW | {"attention_bias": True, "n_routed_experts": 4},
    "mellum": _FEW | {"attention_bias": True, "num_local_experts": 4, "mlp_layer_types": ["dense", *["sparse"] * 7]},
    "arcee": {"mlp_bias": True},
    "granite": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "olmo": {},
    "cohere2": {},
    "glm4": {"attention_bias": True},
    "smollm3": {"use_sliding_window": True, "sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3},
    "qwen2_moe": _FEW | {"num_experts": 4, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2},
    "qwen3_moe": _FEW | {"num_experts": 4, "mlp_only_layers": [0, 3]},
    "mixtral": {"num_local_experts": 4, "sliding_window": 16},
    "glm4_moe": _FEW | {"n_routed_experts": 4, "first_k_dense_replace": 2, "use_qk_norm": True},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron_h": _FEW | {"hybrid_override_pattern": "M-*EM", "mlp_bias": True, "n_routed_experts": 4},
}
"""Layouts and options that no model of the catalogue has."""


@pytest.mark.parametrize("model_type", _UNCATALOGUED)
def test_a_family_is_transformers_with_every_option(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, **(_SMALL | _UNCATALOGUED[model_type]))
    shapes = shapes_of(config.to_dict(), model_type)
    _check(shapes, config)
    kinds = getattr(config, "layer_types", None) or []
    if "sliding_attention" in kinds:
        sliding = sum(group.layers for group in shapes.attention if group.window is not None)
        assert sliding == kinds.count("sliding_attention")


@pytest.mark.parametrize(
    "said",
    [{"index_topk_freq": 3}, {"index_topk_freq": 4, "index_skip_topk_offset": 3}, {"index_topk_pattern": "FSSFSFSS"}],
)
def test_layers_that_look_where_an_earlier_one_looks_have_no_indexer(said: dict[str, Any]) -> None:
    """As the maker's config.json says it; what transformers saves has the list."""
    config = AutoConfig.for_model("glm_moe_dsa", **(_SMALL | _SHARED | said))
    assert "shared" in config.indexer_types
    written = {k: v for k, v in config.to_dict().items() if k != "indexer_types"} | said
    _check(shapes_of(written, "glm"), config)
    _check(shapes_of(config.to_dict(), "glm"), config)


def test_the_bundled_base_is_transformers() -> None:
    folder = resources.files("lowregret.models") / "bundled" / "tiny"
    _check(find_model("tiny"), AutoConfig.from_pretrained(str(folder)))
