"""JSON Lines: an object a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import BrokenRow, NumberedRow, file_reader
from lowregret.data.readers.encoded_text import parse_json, read_bytes, require_object
from lowregret.strict_json import to_json


def read(source: str) -> Iterator[NumberedRow]:
    """A row for each line that is not blank, numbered by its line."""
    # Only \n ends a line: str.splitlines would also cut at U+2028 and others that JSON strings may hold.
    for number, line in enumerate(read_bytes(source).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, require_object(parse_json(line))
        except ValueError as error:
            yield number, BrokenRow(str(error))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A line for each row; its numbers."""
    lines = [to_json(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return list(range(1, len(rows) + 1))


READER = file_reader(".jsonl", "line", read, write)
