"""CSV and TSV with a header: every field is text. What separates the fields is found out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lowregret import limits
from lowregret.data.readers.base import BrokenRow, NumberedRow
from lowregret.data.readers.encoding import TextFile, look_at_text
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.errors import DataError
from lowregret.strict_json import to_json

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLE = 100
"""Records that decide."""
_EXCEL = re.compile(r"sep=(.)\r?\n?")
"""A first line by which Excel is told the separator."""


@dataclass(frozen=True)
class Table:
    """A text file of records under a header."""

    text: TextFile
    separator: str
    skipped: int = 0
    """Lines above the header."""

    def records(self) -> Iterator[tuple[int, list[str] | BrokenRow]]:
        """(line, fields) of each record that is not empty, the header's first."""
        lines = islice(self.text.lines(""), self.skipped, None)
        # strict: an unclosed quote would otherwise swallow the rest of the file without a word.
        reader = csv.reader(lines, delimiter=self.separator, strict=True)
        while True:
            start = self.skipped + reader.line_num + 1
            previous_limit = csv.field_size_limit(limits.ROW_CHARACTERS.value)  # its own is 128 KiB
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, BrokenRow(f"broken CSV: {error}")
                continue
            finally:
                csv.field_size_limit(previous_limit)
            if fields:
                yield start, fields

    def header(self) -> list[str]:
        """The fields of the first record; none where it is broken."""
        _, fields = next(self.records(), (0, []))
        return [] if isinstance(fields, BrokenRow) else fields

    def read(self) -> Iterator[NumberedRow]:
        """The records under the header, each numbered by the line it starts on. Raises DataError for a bad header."""
        records = self.records()
        line, header = next(records, (0, []))
        if isinstance(header, BrokenRow):
            raise DataError(f"the header: {header.reason}.", source=self.text.source, line=line)
        reason = self.text.undecoded(self.separator.join(header))
        if reason is not None:
            raise DataError(f"the header: {reason}.", source=self.text.source, line=line)
        names = [name or f"column {rank}" for rank, name in enumerate(header, start=1)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            twice = ", ".join(map(repr, repeated))
            raise DataError(f"the header names {twice} twice. Rename one.", source=self.text.source, line=line)
        for number, fields in records:
            yield number, self._row(names, fields)

    def _row(self, names: list[str], fields: list[str] | BrokenRow) -> dict[str, Any] | BrokenRow:
        if isinstance(fields, BrokenRow):
            return fields
        reason = self.text.undecoded(self.separator.join(fields))
        if reason is not None:
            return BrokenRow(reason)
        if len(fields) != len(names):
            return BrokenRow(f"{len(fields)} fields where the header has {len(names)}")
        return dict(zip(names, fields, strict=True))


def find_table(text: TextFile) -> Table | None:
    """The table whose separator gives the header several fields and most of the first records as many; None when no
    separator does. Of several that do, the one that does in most records."""
    told = _EXCEL.fullmatch(next(text.lines(""), ""))
    if told:
        return Table(text, told[1], skipped=1)
    agreement = {separator: _agreement(Table(text, separator)) for separator in _SEPARATORS}
    best = max(agreement, key=agreement.__getitem__)
    return Table(text, best) if agreement[best] > 0.5 else None


def _agreement(table: Table) -> float:
    """Of the first records, the share with as many fields as the header; 0 where that has only one."""
    counts = [0 if isinstance(found, BrokenRow) else len(found) for _, found in islice(table.records(), _SAMPLE)]
    if not counts or counts[0] < 2:
        return 0.0
    return sum(count == counts[0] for count in counts) / len(counts)


def look(source: str) -> FileRows:
    """A file that has no separator has one column."""
    text = look_at_text(source)
    usual = "\t" if ".tsv" in Path(source).name.lower() else ","
    return look_at_table(find_table(text) or Table(text, usual), usual)


def look_at_table(table: Table, usual: str) -> FileRows:
    """The rows; its separator is said when it is not the usual one."""
    name = _SEPARATORS.get(table.separator, repr(table.separator))
    said = () if table.separator == usual else (f"fields separated by {name}",)
    return FileRows(table.read, "line", (*table.text.notes, *said))


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


READER = file_reader((".csv", ".tsv"), "line", look, write, is_text=True, text_only=True)
