"""How many positions a base has, by its configuration: what limits the length of a row. Torch-free.

A rotary base has the positions for which its frequencies are made. Most configurations say how many that are; some say
how many there were before a scaling, beside the factor of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DECLARED = ("max_position_embeddings", "n_positions")
_ROPE = ("rope_parameters", "rope_scaling")
_ORIGINAL = "original_max_position_embeddings"
_STRETCHED = ("yarn", "linear", "dynamic", "longrope", "su", "llama3")
"""Kinds of scaling whose factor says how much longer rows may be than before it."""


def positions(config: Mapping[str, Any]) -> int | None:
    """The positions of the base that config.json describes; None when it does not say.

    Where `max_position_embeddings` is above the original number, the scaling is in it (Llama 3.1, Phi-3, DeepSeek).
    Else it is the original number, and the factor comes to it. Under YaRN the factor counts even so: Qwen3's card sets
    a factor of 4 on 32,768 beside 40,960 (huggingface.co/Qwen/Qwen3-8B). Where kinds of layers differ, the fewest
    positions count: Gemma 3's factor is that of its global layers alone (huggingface.co/google/gemma-3-4b-it).
    """
    declared = next((found for key in _DECLARED if (found := _count(config.get(key)))), None)
    if declared is None:
        return None
    rope = next((found for key in _ROPE if isinstance(found := config.get(key), Mapping) and found), {})
    kinds = [value for value in rope.values() if isinstance(value, Mapping)]
    if config.get("rope_local_base_freq") is not None:  # the layers with a window have frequencies of their own
        kinds = [rope, {}]
    return min(_scaled(kind, declared, config) for kind in kinds or [rope])


def positions_of(config: Any) -> int | None:
    """The same of a base's transformers configuration; of a multimodal one, of its text model."""
    text = config.get_text_config(decoder=True)
    values = {**text.to_dict(), _DECLARED[0]: getattr(text, _DECLARED[0], None)}
    return positions(values)


def _scaled(rope: Mapping[str, Any], declared: int, config: Mapping[str, Any]) -> int:
    kind = rope.get("rope_type") or rope.get("type")
    factor = rope.get("factor")
    if kind not in _STRETCHED or isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 1:
        return declared
    original = _count(rope.get(_ORIGINAL)) or _count(config.get(_ORIGINAL)) or declared
    if declared > original and kind != "yarn":
        return declared
    return max(declared, int(original * factor))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
