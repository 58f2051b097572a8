"""What tasks read alike: the options of a spelling, the columns of a row, the end of a completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowregret.errors import DataError


def options(text: str) -> dict[str, str]:
    """`key=value,…` as a dictionary; ValueError names a part that is none, or a key that comes twice."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"{part!r} is no key=value")
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = value
    return found


def after_last(text: str, mark: str) -> str | None:
    """What follows the last `mark`; None without one."""
    _, found, tail = text.rpartition(mark)
    return tail if found else None


def text_column(row: Mapping[str, Any], asked: str | None, usual: tuple[str, ...]) -> str:
    """The text in the column asked for, or in the first of the usual ones; DataError (without a place) if none."""
    name = asked if asked is not None else next((name for name in usual if row.get(name) is not None), None)
    if name is None:
        have = ", ".join(map(str, row)) or "none"
        raise DataError(
            f"no column {' or '.join(usual)} (columns: {have}). Name it with --prompt-field and --completion-field."
        )
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"field {name!r} holds no text.")
    return value
