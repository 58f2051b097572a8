"""A JSON file: a list of objects, or {"data": [...]}."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import NumberedRow, file_reader, number_rows
from lowregret.data.readers.encoded_text import parse_json, read_bytes, require_object
from lowregret.errors import DataError
from lowregret.strict_json import to_json


def read(source: str) -> Iterator[NumberedRow]:
    """The objects of the list. Raises DataError when the file is no JSON or holds no list."""
    content = read_bytes(source)
    if not content.strip():
        return iter(())
    try:
        value = parse_json(content)
    except ValueError as error:
        hint = " If every line is an object of its own, name the file .jsonl." if "Extra data" in str(error) else ""
        raise DataError(f"{error}.{hint}", source=source) from None
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError('must hold a list of objects, or {"data": [...]}.', source=source)
    return number_rows(map(require_object, rows))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A list of the rows; their numbers."""
    path.write_text(to_json([dict(row) for row in rows], ensure_ascii=False), encoding="utf-8", newline="")
    return list(range(1, len(rows) + 1))


READER = file_reader(".json", "row", read, write)
