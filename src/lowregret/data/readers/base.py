"""What a reader is, what it gives, and what it must bring so that its rows can be checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lowregret.errors import DataError

Numbering = Literal["line", "row"]
"""What the numbers of rows count, from 1: physical lines of a text file, or rows."""

Advice = Callable[[], str]
"""What to give instead of a source that is not there, for its error; without a full stop."""

_HELD_OUT_SPLITS = ("test", "validation", "valid", "val", "dev", "eval", "evaluation")
PART = 10**12
"""A row's number in a source of several files is that in its own file, and this for each file before it."""


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not be read."""

    reason: str


NumberedRow = tuple[int, dict[str, Any] | BrokenRow]
"""A row before its columns mean anything, with its number: the physical line it starts on, or its rank; in a source of
several files with `PART`."""


@dataclass(frozen=True)
class Places:
    """How messages name the rows of a source by their numbers."""

    source: str
    numbering: Numbering
    parts: tuple[tuple[str, Numbering], ...] = ()
    """(name, numbering) of each file, where there are several."""

    def locate(self, number: int) -> tuple[str, Numbering, int]:
        """The file that a row lies in, how its rows are numbered, and its number there."""
        if not self.parts:
            return self.source, self.numbering, number
        name, numbering = self.parts[number // PART]
        return name, numbering, number % PART

    def full(self, number: int) -> str:
        """A row as `rows.jsonl:7` or `rows.json, row 7`."""
        name, numbering, place = self.locate(number)
        return f"{name}:{place}" if numbering == "line" else f"{name}, row {place}"

    def short(self, number: int) -> str:
        """A row of a source that was named before: `line 7`, or in full where there are several files."""
        return self.full(number) if self.parts else f"{self.numbering} {number}"

    def find(self, said: str) -> int | None:
        """The number of a row that is named as `7` or `rows.jsonl:7`; None when it is no number, or could be of several
        files."""
        name, _, digits = said.rpartition(":")
        if not digits.isdecimal():
            return None
        if not self.parts:
            return int(digits) if name in ("", self.source) else None
        ranks = [rank for rank, (part, _) in enumerate(self.parts) if part == name or part.endswith(f"/{name}")]
        return ranks[0] * PART + int(digits) if len(ranks) == 1 else None

    def error(self, number: int, message: str) -> DataError:
        """An error of a row; only where rows are lines does its place read `file:line:`."""
        name, numbering, place = self.locate(number)
        if numbering == "line":
            return DataError(message, source=name, line=place)
        error = DataError(f"row {place}: {message}", source=name)
        error.line = place
        return error


@dataclass(frozen=True)
class OpenSource:
    """A source that exists: what it is, and how to read a split of it."""

    name: str
    format: str
    numbering: Numbering
    splits: tuple[str, ...] | None
    """None for a file, which has no splits of its own."""
    load: Callable[[str], Iterator[NumberedRow]]
    """From the name of a split (files ignore it): its rows, read as they are asked for. A DataError may come at any
    row."""
    fingerprint: Callable[[str], str]
    """From the name of a split: a hash of what `load` would read. It changes with the content, not with the name, and
    is the same in every process. Raises DataError as `load` does."""
    notes: tuple[str, ...] = ()
    """What was found that the name does not say: an encoding, a separator, files that are left out."""
    parts: tuple[tuple[str, Numbering], ...] = ()
    """As in `Places`."""

    @property
    def places(self) -> Places:
        """How messages name its rows."""
        return Places(self.name, self.numbering, self.parts)

    @property
    def held_out(self) -> str | None:
        """The split made for judging, when the source comes with one."""
        return next((name for name in _HELD_OUT_SPLITS if name in (self.splits or ())), None)


@dataclass(frozen=True)
class SampleSource:
    """A source whose rows are known."""

    source: str
    rows: list[dict[str, Any]]
    """Those of its train split, in order, as they must be read."""
    numbers: list[int]
    """By which an error must name each."""


@dataclass(frozen=True)
class Reader:
    """A format: which sources are of it, how they are opened, and how to make one whose rows are known.

    A source is of the format whose `prefix` it begins with; else of the first that `claims` it; else, when it is a
    file, of that whose suffix it has; else of that whose `pattern` it matches.
    """

    format: str
    """As reports name it."""
    numbering: Numbering
    spelling: str
    """How a user writes such a source, for messages."""
    open: Callable[[str, Advice], OpenSource]
    sample: Callable[[Path, Sequence[Mapping[str, Any]]], SampleSource]
    """Makes a source in an empty folder, for the laws of tests/laws/test_readers.py: of these rows, or, where a format
    holds none but its own (a generator), of as many. Rows have equal columns, each of one type."""
    suffixes: tuple[str, ...] = ()
    """Of files, lower case, with the dot."""
    prefix: str = ""
    claims: Callable[[str], bool] | None = None
    """Whether a source is of this format, where neither its beginning nor its end tells: folders, several files."""
    pattern: re.Pattern[str] | None = None
    """Of all of a source."""
    is_text: bool = False
    """Whether files are text, which may be compressed."""
    text_only: bool = False
    """Whether a field holds nothing but text. Lists of messages are then written as JSON."""


def number_rows(rows: Iterable[dict[str, Any] | BrokenRow]) -> Iterator[NumberedRow]:
    """Rows by their rank."""
    return enumerate(rows, start=1)


def choose_split(source: str, splits: Any, split: str, remedy: str = "") -> Any:
    """One of the splits; DataError that lists them, and says the remedy, when there is none of this name."""
    if split not in splits:
        valid = ", ".join(map(str, splits))
        raise DataError(f"has no split {split!r}. Valid: {valid}.{remedy and ' '}{remedy}", source=source)
    return splits[split]


def unreadable(source: str, error: OSError) -> DataError:
    """What the system refuses."""
    return DataError(f"cannot be read ({error.strerror or error}).", source=source)
