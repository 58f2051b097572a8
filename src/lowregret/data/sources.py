"""A source of data → rows of chat turns or text, with a report of what was detected and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowregret import limits
from lowregret.data.columns import ColumnSchema, convert, detect
from lowregret.data.readers.base import BrokenRow, Numbering, OpenSource, Places
from lowregret.data.readers.registry import open_source
from lowregret.data.turns import Message
from lowregret.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row of a source: either chat turns or text."""

    messages: tuple[Message, ...] | None
    """Turns as a chat template takes them: `role`, `content`, and what else they hold."""
    text: str | None
    """Text that is supervised as a whole."""
    source: str
    line: int
    """Its number in the source: `Places` says where that is."""
    prompt_turns: int = 0
    """So many turns at the start are a prompt: assistant turns among them are not supervised."""
    tools: tuple[Any, ...] | None = None
    """What the chat may call, as a chat template takes it."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """Position of each assistant turn that a flag keeps out of the loss → the flag, as `weight: 0`."""

    @property
    def characters(self) -> int:
        """About how much text it holds."""
        return len(self.text or "") + sum(len(str(value)) for turn in self.messages or () for value in turn.values())


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class SourceReport:
    """What reading a source found."""

    source: str
    format: str
    columns: str
    """The columns used, such as `question -> answer`."""
    rows: int
    """Good rows."""
    bad_rows: tuple[tuple[int, str], ...] = ()
    """(number, reason) of each row that was skipped."""
    unused_columns: tuple[str, ...] = ()
    split: str | None = None
    """Which split was read; None for a file."""
    numbering: Numbering = "line"
    """What the numbers of rows count."""
    notes: tuple[str, ...] = ()
    """What was found that the source's name does not say."""
    parts: tuple[tuple[str, Numbering], ...] = ()
    """(name, numbering) of each file, where there are several."""

    @property
    def places(self) -> Places:
        """How messages name its rows."""
        return Places(self.source, self.numbering, self.parts)


def read_rows(
    source: str,
    *,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    skip_bad_rows: bool = False,
    split: str = "train",
) -> tuple[list[Row], SourceReport]:
    """Read a file, a folder or several files, `builtin:NAME[:key=value,…]`, or a hub dataset `ORG/NAME[:CONFIG]`.

    `split` selects among those of a source that has some; a file has only one. The first good row decides the columns.
    Raises DataError at the first bad row, or, with `skip_bad_rows`, only when no row is good.
    """
    return read_open(
        open_source(source),
        prompt_field=prompt_field,
        completion_field=completion_field,
        skip_bad_rows=skip_bad_rows,
        split=split,
    )


def read_open(
    opened: OpenSource,
    *,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    skip_bad_rows: bool = False,
    split: str = "train",
) -> tuple[list[Row], SourceReport]:
    """`read_rows` of a source that is already open."""
    stream = RowStream(opened, prompt_field=prompt_field, completion_field=completion_field, split=split)
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    for item in stream:
        if isinstance(item, Row):
            rows.append(item)
        elif skip_bad_rows:
            bad.append((item.line, item.reason))
        else:
            raise bad_row(opened.places, item.line, item.reason)
    return rows, stream.report(len(rows), bad)


class RowStream:
    """The rows of a split as they are read, the bad ones among them, and what was found on the way."""

    def __init__(
        self, opened: OpenSource, *, prompt_field: str | None, completion_field: str | None, split: str
    ) -> None:
        self._opened, self._split = opened, split
        self._fields = prompt_field, completion_field
        self._schema: ColumnSchema | None = None
        self._companions: dict[str, None] = {}
        self._unused: dict[str, None] = {}

    def __iter__(self) -> Iterator[Row | BadRow]:
        """Once."""
        for line, record in self._opened.load(self._split):
            try:
                item: Row | BadRow = self._row(line, record)
            except DataError as error:
                item = BadRow(line, str(error))
            yield item

    def _row(self, line: int, record: dict[str, Any] | BrokenRow) -> Row:
        if isinstance(record, BrokenRow):
            raise DataError(f"{record.reason}.")
        schema = self._schema or detect(record, *self._fields)
        content = convert(schema, record)
        self._schema = schema
        self._companions.update(dict.fromkeys(schema.companions(record)))
        self._unused.update(dict.fromkeys(str(key) for key in record if key not in (*schema.columns, *schema.optional)))
        self._unused.update(dict.fromkeys(content.ignored))
        row = Row(
            messages=content.messages,
            text=content.text,
            source=self._opened.name,
            line=line,
            prompt_turns=content.prompt_turns,
            tools=content.tools,
            skipped=content.skipped,
        )
        if (size := row.characters) > limits.ROW_CHARACTERS.value:
            most = limits.ROW_CHARACTERS
            raise DataError(f"has {size:,} characters, and at most {most.value:,} are read of a row. {most.raised}.")
        return row

    def report(self, rows: int, bad: Sequence[tuple[int, str]]) -> SourceReport:
        """What was found, once all rows were read: so many of them good. Raises DataError when none is."""
        opened = self._opened
        if self._schema is None:
            raise _all_bad(opened, bad) if bad else _empty(opened)
        return SourceReport(
            source=opened.name,
            format=opened.format,
            columns=self._schema.describe(self._companions),
            rows=rows,
            bad_rows=tuple(bad),
            unused_columns=tuple(self._unused),
            split=None if opened.splits is None else self._split,
            numbering=opened.numbering,
            notes=opened.notes,
            parts=opened.parts,
        )


def bad_row(places: Places, number: int, reason: str) -> DataError:
    """The error for one bad row."""
    return places.error(number, f"{reason} Fix the row, or leave out all such rows by --skip-bad-rows.")


def _empty(opened: OpenSource) -> DataError:
    return DataError("is empty: no rows. Name a source that holds at least one.", source=opened.name)


def _all_bad(opened: OpenSource, bad: Sequence[tuple[int, str]]) -> DataError:
    number, reason = bad[0]
    first = opened.places.short(number)
    return DataError(f"all {len(bad)} rows are bad; the first, {first}: {reason}", source=opened.name)
