"""What the readers of single files share: a look into the file, and its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import Advice, NumberedRow, Numbering, OpenSource, Reader, SampleSource, unreadable
from lowregret.errors import DataError
from lowregret.foreign import open_file


@dataclass(frozen=True)
class FileRows:
    """A file that was looked into."""

    read: Callable[[], Iterator[NumberedRow]]
    """Its rows from the first; a DataError may come at any."""
    numbering: Numbering
    notes: tuple[str, ...] = ()
    """What was found that its name does not say."""


def file_reader(
    suffixes: tuple[str, ...],
    numbering: Numbering,
    look: Callable[[str], FileRows],
    write: Callable[[Path, Sequence[Mapping[str, Any]]], list[int]],
    *,
    is_text: bool = False,
    text_only: bool = False,
) -> Reader:
    """The reader of a file format, named by its first suffix; `write` gives back the number of each row.

    `is_text`: files may be compressed. `text_only`: see `Reader`.
    """
    name = suffixes[0].removeprefix(".")

    def open_file(source: str, advice: Advice) -> OpenSource:
        found = look(source)
        return OpenSource(
            source,
            name,
            found.numbering,
            None,
            lambda split: found.read(),
            lambda split: hash_files([source], name),
            found.notes,
        )

    def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
        path = folder / f"rows{suffixes[0]}"
        numbers = write(path, rows)
        return SampleSource(str(path), [dict(row) for row in rows], numbers)

    return Reader(
        format=name,
        numbering=numbering,
        spelling=suffixes[0],
        open=open_file,
        sample=sample,
        suffixes=suffixes,
        is_text=is_text,
        text_only=text_only,
    )


def hash_files(paths: Sequence[str], format: str) -> str:
    """Hexadecimal BLAKE2b of the bytes of files and of the format they are read by. Raises DataError for no file."""
    digest = hashlib.blake2b(format.encode(), digest_size=20)
    for path in paths:
        try:
            with open_file(path, DataError) as file:
                digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
        except OSError as error:
            raise unreadable(path, error) from None
    return digest.hexdigest()
