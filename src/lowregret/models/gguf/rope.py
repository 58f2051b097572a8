"""The rotary embedding that a .gguf file states: its base, its width, its scaling, and the factors in its tensors.

llama.cpp divides the frequency of dimension i by the factor of `rope_freqs.weight` (Llama 3.1 and later), or of
`rope_factors_short.weight` or `rope_factors_long.weight` (Phi-3, by the length), before any other scaling
(ggml, `ggml_rope_ext`). transformers' reader knows none of these, nor `rope.scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from lowregret.errors import ModelError

LLAMA3 = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (LLAMA3, LONG, SHORT)
"""The tensors that are part of the rotary embedding and no weights of the model."""
_LOW, _HIGH = 1.0, 4.0
"""`low_freq_factor` and `high_freq_factor` of every Llama 3 (their config.json)."""
_SCALING = (
    "type", "factor", "original_context_length", "attn_factor", "finetuned", "yarn_beta_fast", "yarn_beta_slow",
    "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier",
)  # fmt: skip
FIELDS = (
    "rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scale_linear",
    *(f"rope.scaling.{field}" for field in _SCALING),
)  # fmt: skip
"""The fields of a file that are read here."""

Factors = Float[np.ndarray[Any, Any], " pairs"]


def set_rope(config: Any, fields: Mapping[str, Any], factors: Mapping[str, Factors], head_dim: int, name: str) -> None:
    """Put into `config` what the file states; ModelError when transformers has nothing that computes it.

    `factors`: the file's tensors among `TENSORS`, float32, [rotary dimensions / 2].
    """
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or not rope:
        if stated := [*factors, *(field for field in fields if field.startswith("rope.scaling."))]:
            raise ModelError(_no_place(name, stated[0], config))
        return
    main = rope.get("full_attention", rope)
    if theta := fields.get("rope.freq_base"):
        main["rope_theta"] = float(theta)
    if "sliding_attention" in rope and (theta := fields.get("rope.freq_base_swa")):
        rope["sliding_attention"]["rope_theta"] = float(theta)
    width = int(fields.get("rope.dimension_count") or head_dim)
    if width != head_dim * main.get("partial_rotary_factor", 1.0) and not hasattr(config, "rotary_dim"):
        if "partial_rotary_factor" not in main:
            raise ModelError(
                f"{name}: rope.dimension_count is {width} of {head_dim}, and {type(config).__name__} of transformers "
                "turns whole heads. Give the Hugging Face folder of this model."
            )
        main["partial_rotary_factor"] = width / head_dim
    if LONG in factors or SHORT in factors:
        _longrope(config, fields, factors, width, name)
    elif LLAMA3 in factors:
        _by_factors(config, main, factors[LLAMA3], width, _scaled(fields, config, name), name)
    else:
        main.update(_scaled(fields, config, name))


def _scaled(fields: Mapping[str, Any], config: Any, name: str) -> dict[str, Any]:
    """transformers' parameters of a scaling that needs no tensor; {} for none."""
    kind = fields.get("rope.scaling.type")
    factor = float(fields.get("rope.scaling.factor") or fields.get("rope.scale_linear") or 1.0)
    kind = ("linear" if factor != 1 else "none") if kind is None else kind
    for field, usual in (("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0), ("yarn_log_multiplier", 0.0)):
        value = fields.get(f"rope.scaling.{field}")
        if value is not None and not math.isclose(value, usual):
            raise ModelError(_no_place(name, f"rope.scaling.{field} = {value}", config))
    attention = float(fields.get("rope.scaling.attn_factor") or 1.0)
    if kind == "yarn":
        found: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
        original = fields.get("rope.scaling.original_context_length") or config.max_position_embeddings
        found["original_max_position_embeddings"] = int(original)
        for field in ("beta_fast", "beta_slow"):
            if (value := fields.get(f"rope.scaling.yarn_{field}")) is not None:
                found[field] = float(value)
        if attention != 1:
            found["attention_factor"] = attention * (0.1 * math.log(factor) + 1)
        return found
    if kind not in ("none", "linear") or attention != 1:
        stated = f"type = {kind}" if kind not in ("none", "linear") else f"attn_factor = {attention}"
        raise ModelError(_no_place(name, f"rope.scaling.{stated}", config))
    return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1 else {}


def _longrope(
    config: Any,
    fields: Mapping[str, Any],
    factors: Mapping[str, Factors],
    width: int,
    name: str,
) -> None:
    here = LONG if LONG in factors else SHORT
    if lacking := next((tensor for tensor in (LONG, SHORT) if tensor not in factors), None):
        raise ModelError(f"{name}: holds {here}, and {lacking} is missing. Give the Hugging Face folder of this model.")
    kind, factor = fields.get("rope.scaling.type"), fields.get("rope.scaling.factor")
    if LLAMA3 in factors or kind not in (None, "none", "longrope") or (kind is None and factor not in (None, 1.0)):
        other = LLAMA3 if LLAMA3 in factors else f"rope.scaling.type {kind}"
        raise ModelError(f"{name}: holds {here} beside {other}. Give the Hugging Face folder of this model.")
    original = int(fields.get("rope.scaling.original_context_length") or config.max_position_embeddings)
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = original
    found = {
        "rope_type": "longrope",
        "short_factor": _listed(factors[SHORT], width, SHORT, name),
        "long_factor": _listed(factors[LONG], width, LONG, name),
        "original_max_position_embeddings": original,
    }
    if attention := fields.get("rope.scaling.attn_factor"):
        found["attention_factor"] = float(attention)
    _place(config, name, LONG).update(found)


def _by_factors(
    config: Any, main: dict[str, Any], factors: Factors, width: int, scaled: Mapping[str, Any], name: str
) -> None:
    """Llama 3's scaling where the factors are its, which other programs know, too; else the factors as they are."""
    if scaled.get("rope_type", "linear") != "linear":
        raise ModelError(
            f"{name}: holds {LLAMA3} beside rope.scaling.type {scaled['rope_type']}. Give the model's folder."
        )
    listed = np.array(_listed(factors, width, LLAMA3, name)) * scaled.get("factor", 1.0)
    if (listed == 1).all():
        return
    found = llama3(listed, float(main["rope_theta"]), width)
    context = int(config.max_position_embeddings)
    _place(config, name, LLAMA3)
    main.update(
        found
        or {
            "rope_type": "longrope",
            "short_factor": listed.tolist(),
            "long_factor": listed.tolist(),
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": context,
        }
    )


def llama3(factors: Factors, theta: float, width: int) -> dict[str, Any] | None:
    """transformers' parameters of Llama 3's scaling that gives these factors; None when they are not of that form.

    The frequency of a wavelength above original / low is divided by the factor, of one below original / high by 1, and
    between them the inverse goes over in a straight line of 1 / wavelength (transformers,
    `_compute_llama3_parameters`). Every point on the line tells the original length.
    """
    most = float(factors.max())
    lengths = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    between = (factors > 1) & (factors < most)
    if not between.any() or most <= 1:
        return None
    share = (1 / factors[between] - 1 / most) / (1 - 1 / most)
    original = round(float(np.median((share * (_HIGH - _LOW) + _LOW) * lengths[between])))
    smooth = np.clip((original / lengths - _LOW) / (_HIGH - _LOW), 0, 1)
    if not np.allclose(1 / ((1 - smooth) / most + smooth), factors, rtol=1e-5, atol=0):
        return None
    return {
        "rope_type": "llama3",
        "factor": most,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": original,
    }


def _place(config: Any, name: str, tensor: str) -> dict[str, Any]:
    rope: dict[str, Any] = config.rope_parameters
    if "full_attention" in rope:
        raise ModelError(_no_place(name, tensor, config))
    return rope


def _listed(factors: Factors, width: int, tensor: str, name: str) -> list[float]:
    if factors.shape != (width // 2,) or not (factors > 0).all():
        raise ModelError(
            f"{name}: {tensor} has {factors.size} factors, and {width // 2} above zero are needed. Fetch it again."
        )
    values: list[float] = factors.astype(float).tolist()
    return values


def _no_place(name: str, stated: str, config: Any) -> str:
    return (
        f"{name}: states {stated}, for which {type(config).__name__} of transformers has no place. Give the "
        "Hugging Face folder of this model."
    )
