"""A JSON file: a list of objects, or {"data": [...]}. JSON Lines under this suffix are read, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.encoding import look_at_text
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.data.readers.json_text import look_at_start, read_list, read_objects
from lowregret.strict_json import to_json


def look(source: str) -> FileRows:
    """The objects by their rank; those of JSON Lines by their line."""
    text = look_at_text(source)
    start = look_at_start(text)
    if start.character == "{" and start.more:
        said = "read as objects one after another, not as one list"
        return FileRows(lambda: read_objects(text), "line", (*text.notes, said))
    return FileRows(lambda: read_list(text), "row", text.notes)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A list of the rows; their numbers."""
    path.write_text(to_json([dict(row) for row in rows], ensure_ascii=False), encoding="utf-8", newline="")
    return list(range(1, len(rows) + 1))


READER = file_reader((".json",), "row", look, write, is_text=True)
