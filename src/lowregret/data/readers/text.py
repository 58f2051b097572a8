"""A .txt file that holds a table or JSON Lines. Prose has no rows."""

from __future__ import annotations

from lowregret.data.readers import csv, jsonl
from lowregret.data.readers.encoding import look_at_text
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.data.readers.json_text import look_at_start
from lowregret.errors import DataError


def look(source: str) -> FileRows:
    """What the file begins with decides. Raises DataError for prose."""
    text = look_at_text(source)
    start = look_at_start(text).character
    if start in ("{", "["):
        return jsonl.look(source)
    if not start:
        return FileRows(lambda: iter(()), "line")
    table = csv.find_table(text)
    if table is None or any(name[:1].isspace() for name in table.header()):  # as after the commas of prose
        raise DataError(
            'is text without rows. Write a .jsonl file, one {"text": …} a line, or a table with a header.',
            source=source,
        )
    return csv.look_at_table(table, usual="")


READER = file_reader((".txt",), "line", look, jsonl.write, is_text=True)
