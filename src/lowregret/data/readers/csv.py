"""CSV with a header: every field is text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import BrokenRow, NumberedRow, file_reader
from lowregret.data.readers.encoded_text import read_bytes
from lowregret.errors import DataError
from lowregret.strict_json import to_json


def read(source: str) -> Iterator[NumberedRow]:
    """The records under the header, each numbered by the line it starts on. Raises DataError for a bad header."""
    # Bytes that are not UTF-8 become surrogates, which make the field that holds them bad, not the whole file.
    text = read_bytes(source).decode("utf-8", errors="surrogateescape")
    previous_limit = csv.field_size_limit(max(len(text), 1))
    try:
        lines = list(_lines(text))
    finally:
        csv.field_size_limit(previous_limit)
    if not lines:
        return
    line, header = lines[0]
    if isinstance(header, BrokenRow):
        raise DataError(f"the header: {header.reason}.", source=source, line=line)
    names = [name or f"column {rank}" for rank, name in enumerate(header, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        twice = ", ".join(map(repr, repeated))
        raise DataError(f"the header names {twice} twice. Rename one.", source=source, line=line)
    for number, fields in lines[1:]:
        yield number, _row(names, fields)


def _lines(text: str) -> Iterator[tuple[int, list[str] | BrokenRow]]:
    # strict: an unclosed quote would otherwise swallow the rest of the file without a word.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, BrokenRow(f"broken CSV: {error}")
        else:
            if fields:
                yield start, fields


def _row(names: list[str], fields: list[str] | BrokenRow) -> dict[str, Any] | BrokenRow:
    if isinstance(fields, BrokenRow):
        return fields
    if len(fields) != len(names):
        return BrokenRow(f"{len(fields)} fields where the header has {len(names)}")
    return dict(zip(names, fields, strict=True))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A header and a record for each row, lists and objects as JSON; the line that each record starts on."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(names)
    numbers = []
    for row in rows:
        numbers.append(1 + _line_ends(stream.getvalue()))
        values = [row[name] for name in names]
        writer.writerow([value if isinstance(value, str) else to_json(value) for value in values])
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    return numbers


def _line_ends(text: str) -> int:
    """Lines that have ended, by \\n, \\r\\n or \\r, as the csv module counts them."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")


READER = file_reader(".csv", "line", read, write, text_only=True)
