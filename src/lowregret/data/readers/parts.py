"""Several files as one source: their rows one after another, each with the name and number it has in its own file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers import jsonl
from lowregret.data.readers.base import PART, NumberedRow, OpenSource, SampleSource, choose_split
from lowregret.data.readers.formats import open_file


def open_parts(
    source: str,
    format: str,
    paths: Sequence[str],
    splits: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
    *,
    remedy: str = "",
) -> OpenSource:
    """Open files that exist as one source, which may have splits: which of the files are of each.

    `remedy` says what to do when a split is asked for that is not there. Raises DataError for a file that cannot be
    opened.
    """
    opened = {path: open_file(path) for path in paths}
    ranks = {path: rank for rank, path in enumerate(paths)}

    def files(split: str) -> Sequence[str]:
        return paths if splits is None else choose_split(source, splits, split, remedy)

    def load(split: str) -> Iterator[NumberedRow]:
        return ((ranks[path] * PART + number, row) for path in files(split) for number, row in opened[path].load(split))

    def fingerprint(split: str) -> str:
        every = " ".join(opened[path].fingerprint(split) for path in files(split))
        return hashlib.blake2b(every.encode(), digest_size=20).hexdigest()

    return OpenSource(
        source,
        format,
        opened[paths[0]].numbering,
        None if splits is None else tuple(splits),
        load,
        fingerprint,
        (*notes, *_notes(opened)),
        tuple((path, file.numbering) for path, file in opened.items()),
    )


def _notes(opened: Mapping[str, OpenSource]) -> Iterator[str]:
    """What was found in the files, each thing once with the files of which it is true."""
    found: dict[str, list[str]] = {}
    for path, file in opened.items():
        empty = () if os.path.getsize(path) else ("empty",)
        for note in (*file.notes, *empty):
            found.setdefault(note, []).append(path)
    for note, paths in found.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield f"{note}: {paths[0]}{more}"


def write_parts(folder: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[int]]:
    """The rows as JSON Lines in files of these names, about equally many in each: the paths, and the rows' numbers."""
    share = -(-len(rows) // len(names))
    paths, numbers = [], []
    for rank, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers += [rank * PART + line for line in jsonl.write(path, rows[rank * share : (rank + 1) * share])]
        paths.append(str(path))
    return paths, numbers


def sample_of(source: str, rows: Sequence[Mapping[str, Any]], numbers: list[int]) -> SampleSource:
    """A source that was written as `rows`."""
    return SampleSource(source, [dict(row) for row in rows], numbers)
