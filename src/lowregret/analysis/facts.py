"""How many bits the facts of a generated data set have. Torch-free."""

from __future__ import annotations

from functools import cache

from lowregret.data.bundled import load_builtin
from lowregret.errors import DataError


@cache
def bits_of(source: str) -> float:
    """Bits of all facts of `builtin:biographies…`; DataError for data whose bits nobody knows."""
    found = load_builtin(source).facts.get("fact_bits") if source.startswith("builtin:") else None
    if found is None:
        raise DataError("has no facts of a known number of bits. Use builtin:biographies:size={size}.", source=source)
    return found
