"""A folder of files of data: its splits are those that the files' names, or their folders', say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import Advice, OpenSource, Reader, SampleSource
from lowregret.data.readers.formats import ENDINGS, FILE_SUFFIXES, find_file_reader, split_suffix
from lowregret.data.readers.parts import open_parts, sample_of, write_parts
from lowregret.data.readers.split_names import describe, few, missing_shards, sort_by_split
from lowregret.errors import DataError

_ABOUT = (
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "readme.txt",
    "license.txt",
)
"""Names of files that say something about data, and are none."""
_WEIGHTS = (".safetensors", ".gguf")


def claims(source: str) -> bool:
    """Every folder, for it is no file."""
    return os.path.isdir(source)


def open_folder(source: str, advice: Advice) -> OpenSource:
    """All files of data in a folder and the folders in it, but hidden ones.

    Raises DataError where it is not clear which files belong together.
    """
    data, others = _list(source)
    if any(name.endswith(_WEIGHTS) for name in others):
        raise DataError("is the folder of a model, not of data.", source=source)
    if not data:
        raise DataError(f"is a folder without data. Name one with files of {', '.join(FILE_SUFFIXES)}.", source=source)
    formats: dict[str, list[str]] = {}
    for path in data:
        formats.setdefault(find_file_reader(path).format, []).append(path)
    if len(formats) > 1:
        kinds = ", ".join(f"{few(paths)} ({kind})" for kind, paths in formats.items())
        raise DataError(f"is a folder of several kinds of files: {kinds}. {_remedy(source, data)}", source=source)
    plain = Counter(map(_uncompressed, data))
    twice = [path for path in data if plain[_uncompressed(path)] > 1]
    if twice:
        raise DataError(f"holds the same file compressed and not: {few(twice)}. Remove one.", source=source)
    missing = missing_shards(data)
    if missing:
        raise DataError(
            f"is incomplete: {few(missing)} should be there by the names of the others. Fetch what is missing.",
            source=source,
        )
    try:
        splits = sort_by_split(data)
    except DataError as error:
        raise DataError(f"{error} {_remedy(source, data)}", source=source) from None
    notes = [f"{len(data):,} {next(iter(formats))} file{'s' if len(data) > 1 else ''}: {describe(splits)}"]
    if others:
        notes.append(f"{len(others):,} other files in it are not read: {few(others)}")
    full = {split: [os.path.join(source, path) for path in paths] for split, paths in splits.items()}
    paths = [path for files in full.values() for path in files]
    return open_parts(source, READER.format, paths, full, notes, remedy=_remedy(source, data))


def _list(source: str) -> tuple[list[str], list[str]]:
    """(files of data, other files) by their paths in the folder, in order."""
    data: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(source, followlinks=True):
        if os.path.realpath(folder) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), source)
            if name.startswith(".") or name.lower() in _ABOUT:
                continue
            (data if name.lower().endswith(ENDINGS) else others).append(path)
    return sorted(data), sorted(others)


def _uncompressed(path: str) -> str:
    return path.lower().removesuffix(split_suffix(path)[1])


def _remedy(source: str, data: Sequence[str]) -> str:
    example = os.path.join(source, data[0])
    return f"Name the files to be read, as {example}, a pattern with * or several with commas between."


def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
    """Two files for training, in a folder as the hub has it, and one to judge by."""
    _, numbers = write_parts(folder, ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"], rows)
    write_parts(folder, ["data/test-00000-of-00001.jsonl"], rows[:1])
    return sample_of(str(folder), rows, numbers)


READER = Reader(
    format="folder",
    numbering="line",
    spelling="a folder of such files",
    open=open_folder,
    sample=sample,
    claims=claims,
)
