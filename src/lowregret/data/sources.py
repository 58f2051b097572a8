"""A source of data → rows of chat turns or text, with a report of what was detected and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    schema: ColumnSchema | None = None
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    unused: dict[str, None] = {}
    companions: dict[str, None] = {}
    for line, record in opened.load(split):
        try:
            if isinstance(record, BrokenRow):
                raise DataError(f"{record.reason}.")
            candidate = schema or detect(record, prompt_field, completion_field)
            content = convert(candidate, record)
        except DataError as error:
            if not skip_bad_rows:
                raise bad_row(opened.places, line, str(error)) from None
            bad.append((line, str(error)))
            continue
        schema = candidate
        rows.append(
            Row(
                content.messages,
                content.text,
                opened.name,
                line,
                content.prompt_turns,
                content.tools,
                content.skipped,
            )
        )
        companions.update(dict.fromkeys(schema.companions(record)))
        unused.update(dict.fromkeys(str(key) for key in record if key not in (*schema.columns, *schema.optional)))
        unused.update(dict.fromkeys(content.ignored))
    if schema is None:
        raise _all_bad(opened, bad) if bad else _empty(opened)
    report = SourceReport(
        source=opened.name,
        format=opened.format,
        columns=schema.describe(companions),
        rows=len(rows),
        bad_rows=tuple(bad),
        unused_columns=tuple(unused),
        split=None if opened.splits is None else split,
        numbering=opened.numbering,
        notes=opened.notes,
        parts=opened.parts,
    )
    return rows, report


def bad_row(places: Places, number: int, reason: str) -> DataError:
    """The error for one bad row."""
    return places.error(number, f"{reason} Fix the row, or leave out all such rows by --skip-bad-rows.")


def _empty(opened: OpenSource) -> DataError:
    return DataError("is empty: no rows. Name a source that holds at least one.", source=opened.name)


def _all_bad(opened: OpenSource, bad: list[tuple[int, str]]) -> DataError:
    number, reason = bad[0]
    first = opened.places.short(number)
    return DataError(f"all {len(bad)} rows are bad; the first, {first}: {reason}", source=opened.name)
