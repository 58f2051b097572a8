"""Several files: names and patterns with commas between, such as `a.jsonl,b.jsonl` or `data/*.parquet`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import Advice, OpenSource, Reader, SampleSource
from lowregret.data.readers.formats import ENDINGS, find_file_reader
from lowregret.data.readers.parts import open_parts, sample_of, write_parts
from lowregret.data.readers.split_names import describe, few, missing_shards, sort_by_split, split_of
from lowregret.errors import DataError


def claims(source: str) -> bool:
    """A name with a comma or with a wildcard, unless it is the name of something that is there."""
    return ("," in source or glob.has_magic(source)) and not os.path.exists(source)


def open_files(source: str, advice: Advice) -> OpenSource:
    """The files, in the order of the list; those of a pattern by name.

    A list is read as it stands. The files of a single pattern are sorted into splits as those of a folder are, when
    their names say more than one.

    Raises DataError for a file that is not there, is none of data, or is named twice.
    """
    names = [name.strip() for name in source.split(",")]
    paths = [path for name in names for path in _files(source, name)]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise DataError(f"names {few(twice)} twice. Name each file once.", source=source)
    for path in paths:
        find_file_reader(path)
    missing = missing_shards(paths)
    notes = [f"not all parts are read: {few(missing)} would go with these"] if missing else []
    splits = _splits(source, paths) if len(names) == 1 else None
    count = f"{len(paths):,} file{'s' if len(paths) > 1 else ''}"
    notes.insert(0, count if splits is None else f"{count}: {describe(splits)}")
    return open_parts(
        source, READER.format, paths, splits, notes, remedy="Name the files to be read, with commas between."
    )


def _files(source: str, name: str) -> list[str]:
    """The files that one name of the list stands for."""
    if os.path.isfile(name):
        return [os.path.normpath(name)]
    if os.path.isdir(name):
        files_in_it = os.path.join(name, "*.jsonl")
        raise DataError(f"{name} is a folder. In a list name its files: {files_in_it}.", source=source)
    if not glob.has_magic(name):
        what = f"no such file as {name}" if name else "an empty name between commas"
        raise DataError(f"{what}. A list is of files that are there, or patterns with *.", source=source)
    found = sorted(glob.glob(name, recursive=True))
    files = [os.path.normpath(path) for path in found if os.path.isfile(path)]
    if not files:
        folders = f"; it matches the folders {few(found)}" if found else ""
        raise DataError(f"no file matches {name}{folders}. {_nearest(name)}", source=source)
    if len(files) < len(found) and "**" not in name:
        folders = few([path for path in found if os.path.isdir(path)])
        raise DataError(f"{name} matches folders, too: {folders}. Write one that matches files.", source=source)
    others = [path for path in files if not path.lower().endswith(ENDINGS)]
    if others:
        raise DataError(f"{name} matches {few(others)}, no data. Write one that matches files of data.", source=source)
    return files


def _nearest(pattern: str) -> str:
    folder = os.path.dirname(re.split(r"[*?[]", pattern)[0]) or "."
    if not os.path.isdir(folder):
        return f"There is no folder {folder}; check the path."
    inside = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(ENDINGS)]
    return f"{folder} holds {few(inside) if inside else 'no data'}."


def _splits(source: str, paths: list[str]) -> dict[str, list[str]] | None:
    """The splits of a pattern's files; None unless their names say several."""
    start = os.path.commonpath([os.path.dirname(path) for path in paths]) if os.path.dirname(paths[0]) else ""
    within = {os.path.relpath(path, start or "."): path for path in paths}
    try:
        if len({split_of(path) or "train" for path in within}) == 1:
            return None
        return {split: [within[path] for path in files] for split, files in sort_by_split(list(within)).items()}
    except DataError as error:
        raise DataError(f"{error} Name the files to be read, with commas between.", source=source) from None


def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
    """Two files, the first of a name that sorts last."""
    paths, numbers = write_parts(folder, ["b.jsonl", "a.jsonl"], rows)
    return sample_of(",".join(paths), rows, numbers)


READER = Reader(
    format="files",
    numbering="line",
    spelling="several, or patterns with *, with commas between",
    open=open_files,
    sample=sample,
    claims=claims,
)
