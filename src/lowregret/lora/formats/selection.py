"""Which modules an adapter_config.json adapts, and at what rank and alpha, by PEFT's own rules.

They are those of PEFT 0.21.2: `check_target_module_exists` in tuners/tuners_utils.py and `get_pattern_key` in
utils/other.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lowregret import limits
from lowregret.errors import ModelError
from lowregret.foreign import boundary, bounded
from lowregret.models.targets import Matrix
from lowregret.runs.files import ADAPTER_CONFIG

CONFIG_NAME = ADAPTER_CONFIG
AGAIN = "Save or fetch the adapter again."


def missing(config: Mapping[str, Any], known: Iterable[Matrix], found: Collection[str]) -> list[str]:
    """The base's matrices that the configuration adapts and that are not among the names `found`, in the base's order.

    Where the configuration names no modules (PEFT then goes by the family), and of experts, which it names in several
    ways: those that some other layer's adapter has.
    """
    alike = {_any_layer(name) for name in found}
    names: list[str] = []
    for matrix in known:
        by_config = None if matrix.experts else selects(config, matrix)
        if matrix.name not in found and (_any_layer(matrix.name) in alike if by_config is None else by_config):
            names.append(matrix.name)
    return names


def selects(config: Mapping[str, Any], matrix: Matrix) -> bool | None:
    """Whether the configuration adapts this matrix, as a module or by its parameter; None where it names no modules."""
    if _named(config.get("target_parameters") or [], f"{matrix.name}.weight"):
        return True
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _named(excluded, matrix.name):
        return False
    if targets is None:
        return None
    if targets == "all-linear":
        return None if matrix.group == "router" else matrix.group != "unembedding"
    if not _named(targets, matrix.name):
        return False
    return isinstance(targets, str) or _in_layers(config, matrix.name)


def rank_and_alpha(config: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """Those of a module, or of a parameter: of the first pattern that means it, else `r` and `lora_alpha`."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = next((value for key, value in ranks.items() if means(key, name)), config.get("r"))
    return rank, next((value for key, value in alphas.items() if means(key, name)), config.get("lora_alpha"))


def means(key: str, name: str) -> bool:
    """Whether a pattern of PEFT means this name: it is a regex for its end, after a dot."""
    return matching(rf"(.*\.)?({key})", name) is not None


def matching(pattern: str, name: str, whole: bool = True) -> re.Match[str] | None:
    """How a pattern of an adapter is that of a name, or begins it. ModelError for none, and for one that never ends."""
    what = f"its pattern {pattern[:80]!r} cannot be matched"
    with boundary(ModelError, CONFIG_NAME, what, AGAIN), bounded(limits.RENDER_SECONDS, limits.RENDER_BYTES):
        return re.fullmatch(pattern, name) if whole else re.match(pattern, name)


def _named(keys: str | Collection[str], name: str) -> bool:
    if isinstance(keys, str):
        return matching(keys, name) is not None
    return any(name == key or name.endswith(f".{key}") for key in keys)


def _in_layers(config: Mapping[str, Any], name: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or []
    expressions = [
        rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    ]
    matches = (matching(expression, name, whole=False) for expression in expressions or [r".*?\.[^.]*\.(\d+)\."])
    match = next((match for match in matches if match), None)
    return (
        match is not None
        and match[1].isdecimal()
        and int(match[1]) in ([layers] if isinstance(layers, int) else layers)
    )


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)
