"""JSON Lines: an object a line. Objects over several lines and a list of objects are read, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.encoding import look_at_text
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.data.readers.json_text import look_at_start, read_list, read_objects
from lowregret.strict_json import to_json


def look(source: str) -> FileRows:
    """A row for each object, numbered by its line; those of a list by their rank."""
    text = look_at_text(source)
    start = look_at_start(text)
    if start.character == "[" and not (start.lines == 1 and start.more):
        return FileRows(lambda: read_list(text), "row", (*text.notes, "read as one list, not as JSON Lines"))
    spread = ("read as objects over several lines, not as JSON Lines",) if start.lines > 1 else ()
    return FileRows(lambda: read_objects(text), "line", (*text.notes, *spread))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A line for each row; its numbers."""
    lines = [to_json(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return list(range(1, len(rows) + 1))


READER = file_reader((".jsonl", ".ndjson"), "line", look, write, is_text=True)
