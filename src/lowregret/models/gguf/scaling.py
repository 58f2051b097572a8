"""The scaling of positions that a .gguf file holds in tensors and metadata which transformers' reader passes over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowregret.errors import ModelError

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
READ_HERE = frozenset({FREQUENCIES, LONG, SHORT})
"""Tensors of which transformers knows nothing, and of which `rope_parameters` makes use."""

_LOW, _HIGH = 1.0, 4.0
"""Of Llama 3.1's scaling; every published Llama has these two."""
_ORIGINAL = [2**power for power in range(4, 21)]
"""Lengths for which a base may have been trained at first."""


def rope_parameters(
    name: str, fields: Mapping[str, Any], factors: Mapping[str, NDArray[np.float32]], base: float
) -> dict[str, Any] | None:
    """What transformers' `rope_parameters` has to say beside `rope_theta`; None when positions are not scaled.

    Args:
        name: of the file, for messages.
        fields: its metadata, without the family's name before them.
        factors: those of READ_HERE that it holds, by their names. A frequency is divided by its factor.
        base: `rope_theta`.

    Raises:
        ModelError: a scaling that cannot be told to transformers.
    """
    if LONG in factors or SHORT in factors:
        return _longrope(name, fields, factors)
    if FREQUENCIES in factors:
        return _llama3(name, factors[FREQUENCIES].astype(np.float64), base)
    kind, factor = fields.get("rope.scaling.type"), fields.get("rope.scaling.factor")
    if kind in (None, "none") or factor in (None, 0, 1):
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{name}: rope.scaling.type is {kind!r}, which is not supported. Use a Hugging Face folder.")
    found: dict[str, Any] = {"rope_type": kind, "factor": float(factor)}
    if kind == "yarn" and fields.get("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = int(fields["rope.scaling.original_context_length"])
    return found


def _longrope(name: str, fields: Mapping[str, Any], factors: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    original = fields.get("rope.scaling.original_context_length")
    if LONG not in factors or SHORT not in factors or not original:
        raise ModelError(
            f"{name}: {LONG} and {SHORT} come together, with rope.scaling.original_context_length; one of them is "
            "missing. Use a Hugging Face folder."
        )
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "long_factor": factors[LONG].astype(float).tolist(),
        "short_factor": factors[SHORT].astype(float).tolist(),
        "original_max_position_embeddings": int(original),
    }
    if fields.get("rope.scaling.attn_factor"):
        found["attention_factor"] = float(fields["rope.scaling.attn_factor"])
    return found


def _llama3(name: str, factors: NDArray[np.float64], base: float) -> dict[str, Any]:
    """The scaling of Llama 3.1 that has these factors, which is what llama.cpp's converter writes them from."""
    factor = float(factors.max())
    for original in _ORIGINAL:
        if np.allclose(factors, llama3_factors(len(factors), base, factor, original), rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": original,
            }
    raise ModelError(
        f"{name}: {FREQUENCIES} holds factors that are those of no scaling known here (Llama 3's is). Use a Hugging "
        "Face folder."
    )


def llama3_factors(count: int, base: float, factor: float, original: int) -> NDArray[np.float64]:
    """By what Llama 3.1 divides each of `count` frequencies: float64 [count] (transformers, `rope_type` llama3)."""
    found = []
    for rank in range(count):
        turns = original / (2 * math.pi * base ** (rank / count))
        smooth = min(max((turns - _LOW) / (_HIGH - _LOW), 0.0), 1.0)
        found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found)
