"""A rotary embedding as the keys and factors by which llama.cpp computes it: the inverse of `models.gguf.rope`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lowregret.errors import ModelError

_SERVE = "Serve the merged model with transformers or vLLM instead (lowregret merge)."
_SWA = 10000.0
"""The base of Gemma 3's sliding layers that llama.cpp takes for granted where the file states none."""


def rope_keys(config: Any, width: int, place: str, *, nested: bool) -> tuple[dict[str, Any], tuple[float, ...]]:
    """(keys without the family's name, factors of `rope_freqs.weight` or none) of a transformers configuration.

    `nested`: whether full and sliding layers have parameters of their own (Gemma 3). ModelError for what llama.cpp
    does not compute.
    """
    rope: Mapping[str, Any] = config.rope_parameters
    keys: dict[str, Any] = {}
    if nested:
        sliding, rope = rope["sliding_attention"], rope["full_attention"]
        if sliding.get("rope_type", "default") != "default":
            raise _no_form(place, f"{sliding['rope_type']} on sliding layers")
        keys["rope.freq_base_swa"] = float(sliding.get("rope_theta", _SWA))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _no_form(place, f"partial_rotary_factor = {rope['partial_rotary_factor']}")
    keys["rope.freq_base"] = float(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "llama3":
        return keys, _llama3(rope, width)
    if kind == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}, ()
    if kind == "yarn":
        return keys | _yarn(rope, config, place), ()
    if kind != "default":
        raise _no_form(place, f"rope_type = {kind}")
    return keys, ()


def _llama3(rope: Mapping[str, Any], width: int) -> tuple[float, ...]:
    """By what each frequency is divided (transformers, `_compute_llama3_parameters`): nothing where the wavelength is
    below original / high, `factor` above original / low, and between them in a straight line of the inverse."""
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    factor, original = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    lengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, width, 2) / width)
    smooth = np.clip((original / lengths - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - smooth) / factor + smooth)).tolist())


def _yarn(rope: Mapping[str, Any], config: Any, place: str) -> dict[str, Any]:
    factor = float(rope["factor"])
    for name in ("mscale", "mscale_all_dim"):
        if rope.get(name):
            raise _no_form(place, f"{name} = {rope[name]}")
    if rope.get("truncate", True) is not True:
        raise _no_form(place, "truncate = false")
    keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        ),
    }
    for name in ("beta_fast", "beta_slow"):
        if rope.get(name) is not None:
            keys[f"rope.scaling.yarn_{name}"] = float(rope[name])
    usual = 0.1 * math.log(factor) + 1
    if rope.get("attention_factor") not in (None, usual):
        keys["rope.scaling.attn_factor"] = float(rope["attention_factor"]) / usual
    return keys


def _no_form(place: str, what: str) -> ModelError:
    return ModelError(
        f"{place}: config.json scales the rotary embedding by {what}, which GGUF has no form for. {_SERVE}"
    )
