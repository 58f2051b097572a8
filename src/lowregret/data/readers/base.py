"""What a reader is, what it gives, and what it must bring so that its rows can be checked."""

from __future__ import annotations

import hashlib
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

_HELD_OUT_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class BrokenRow:
    """A row that could not be read."""

    reason: str


NumberedRow = tuple[int, dict[str, Any] | BrokenRow]
"""A row before its columns mean anything, with its number: the physical line it starts on, or its rank."""


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

    A source is of the format whose `prefix` it begins with; else, when it is a file, of that whose suffix it has; else
    of that whose `pattern` it matches.
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
    pattern: re.Pattern[str] | None = None
    """Of all of a source."""
    text_only: bool = False
    """Whether a field holds nothing but text. Lists of messages are then written as JSON."""


def file_reader(
    suffix: str,
    numbering: Numbering,
    read: Callable[[str], Iterator[NumberedRow]],
    write: Callable[[Path, Sequence[Mapping[str, Any]]], list[int]],
    *,
    text_only: bool = False,
) -> Reader:
    """The reader of a file format; `write` gives back the number of each row."""
    name = suffix.removeprefix(".")

    def open_file(source: str, advice: Advice) -> OpenSource:
        return OpenSource(
            source, name, numbering, None, lambda split: read(source), lambda split: hash_file(source, name)
        )

    def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
        path = folder / f"rows{suffix}"
        numbers = write(path, rows)
        return SampleSource(str(path), [dict(row) for row in rows], numbers)

    return Reader(
        format=name,
        numbering=numbering,
        spelling=suffix,
        open=open_file,
        sample=sample,
        suffixes=(suffix,),
        text_only=text_only,
    )


def number_rows(rows: Iterable[dict[str, Any] | BrokenRow]) -> Iterator[NumberedRow]:
    """Rows by their rank."""
    return enumerate(rows, start=1)


def hash_file(source: str, format: str) -> str:
    """Hexadecimal BLAKE2b of a file's bytes and of the format they are read by. Raises DataError for no file."""
    try:
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20))
    except OSError as error:
        raise unreadable(source, error) from None
    digest.update(format.encode())
    return digest.hexdigest()


def unreadable(source: str, error: OSError) -> DataError:
    """What the system refuses."""
    return DataError(f"cannot be read ({error.strerror or error}).", source=source)


def choose_split(source: str, splits: Any, split: str) -> Any:
    """One of the splits; DataError that lists them when there is none of this name."""
    if split not in splits:
        raise DataError(f"has no split {split!r}. Valid: {', '.join(map(str, splits))}.", source=source)
    return splits[split]


def first_line(error: Exception) -> str:
    """What a library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
