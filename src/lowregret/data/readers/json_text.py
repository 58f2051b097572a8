"""JSON text → rows: objects one after another, on a line each or over several, or a list of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lowregret import limits
from lowregret.data.readers.base import BrokenRow, NumberedRow, number_rows
from lowregret.data.readers.encoding import TextFile
from lowregret.errors import DataError

_BLANK = " \t\r\n"
_LOOK = 20
"""Lines that tell whether an object is indented."""
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+("?)|[{}\[\]]')  # possessive: going back would take memory for each letter


class _Depth:
    """Which brackets of a value are open, line after line."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._broken = False

    def add(self, line: str) -> None:
        for token in _TOKEN.finditer(line):
            if token[0][0] == '"':
                self._broken |= not token[1]  # no text of JSON goes over the end of a line
            elif token[0] in "{[":
                self._open.append(token[0])
            elif self._open:
                self._open.pop()

    @property
    def is_closed(self) -> bool:
        return not self._broken and not self._open

    @property
    def is_in_list(self) -> bool:
        return self._open[-1:] == ["["]


class _Record:
    """An object of which not all lines have been read."""

    def __init__(self, number: int, line: str) -> None:
        self.number = number
        self._lines: list[str] = []
        self._depth = _Depth()
        self.add(line)

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._depth.add(line)

    @property
    def is_whole(self) -> bool:
        return self._depth.is_closed

    def ends_before(self, line: str) -> bool:
        """Whether a line begins the next object, though this one has not ended: it is indented no more than the first.
        Where nothing at all is indented, an object may be one of a list."""
        indent = _indent(self._lines[0])
        if not line.lstrip(_BLANK).startswith("{") or _indent(line) > indent:
            return False
        flat = self._lines[0].strip(_BLANK) == "{" and all(_indent(other) <= indent for other in self._lines[-_LOOK:])
        return not (flat and self._depth.is_in_list)

    def row(self, text: TextFile) -> NumberedRow:
        joined = "".join(self._lines).rstrip("\r\n")
        if joined.rstrip(_BLANK).endswith("},"):  # as in a list that lost its brackets
            joined = joined.rstrip(_BLANK).removesuffix(",")
        reason = text.undecoded(joined)
        if reason is not None:
            return self.number, BrokenRow(reason)
        try:
            return self.number, require_object(parse_json(joined, self.number))
        except ValueError as error:
            return self.number, BrokenRow(str(error))


def read_objects(text: TextFile) -> Iterator[NumberedRow]:
    """The objects of a file, each numbered by the line it starts on. One that is broken ends where the next begins."""
    record: _Record | None = None
    # Only \n ends a line: JSON's strings may hold U+2028 and others at which str.splitlines would cut.
    for number, line in enumerate(text.lines("\n"), start=1):
        if not line.strip(_BLANK):
            continue
        if record is not None:
            if record.ends_before(line):
                yield record.row(text)
                record = None
            else:
                record.add(line)
        if record is None:
            row = _row_of_line(number, line, text)
            if row is None:
                record = _Record(number, line)
            else:
                yield row
        if record is not None and record.is_whole:
            yield record.row(text)
            record = None
    if record is not None:
        yield record.row(text)


def _row_of_line(number: int, line: str, text: TextFile) -> NumberedRow | None:
    """The row of a line of its own; None when it begins an object that goes on."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        record = _Record(number, line)
        begins = line.lstrip(_BLANK).startswith("{")
        return None if begins and not record.is_whole else record.row(text)
    reason = text.undecoded(line)
    return number, require_object(value) if reason is None else BrokenRow(reason)


def read_list(text: TextFile) -> Iterator[NumberedRow]:
    """The objects of a list, or of the list in {"data": [...]}. Raises DataError when the file holds neither."""
    whole = text.whole()
    reason = text.undecoded(whole)
    if reason is not None:
        raise DataError(f"{reason}.", source=text.source)
    if not whole.strip(_BLANK):
        return
    try:
        value = parse_json(whole)
    except ValueError as error:
        raise DataError(f"{error}.", source=text.source) from None
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError('must hold a list of objects, or {"data": [...]}.', source=text.source)
    yield from number_rows(map(require_object, rows))


@dataclass(frozen=True)
class Start:
    """What a file of JSON begins with."""

    character: str
    lines: int
    """That the first value takes; 0 when it does not end."""
    more: bool
    """Whether anything follows it."""


def look_at_start(text: TextFile) -> Start:
    """Read the first value of a file, however long it is."""
    lines = (line for line in text.lines("\n", limits.JSON_LIST_BYTES.value) if line.strip(_BLANK))
    character, depth = "", _Depth()
    for count, line in enumerate(lines, start=1):
        character = character or line.lstrip(_BLANK)[0]
        depth.add(line)
        if depth.is_closed:
            return Start(character, count, next(lines, None) is not None)
    return Start(character, 0, False)


def parse_json(text: str, line: int = 1) -> Any:
    """JSON, or a ValueError that says what is wrong in one line; `line` is the number of the text's first."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1} " if error.lineno > 1 else ""
        hint = ": begin each object on a line of its own" if error.msg == "Extra data" else ""
        raise ValueError(f"broken JSON: {error.msg.removesuffix(' at')} at {place}column {error.colno}{hint}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None


def require_object(value: Any) -> dict[str, Any] | BrokenRow:
    """A JSON value as a row."""
    if isinstance(value, dict):
        return value
    return BrokenRow(f"a row must be a JSON object with named fields, not {type(value).__name__}")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(_BLANK))
