"""All formats, and which of them a source is of.

A format is a file of this folder with a `READER`, listed here; tests/laws/test_readers.py then runs over it.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from lowregret.data.readers import builtin, csv, hub, json, jsonl, parquet
from lowregret.data.readers.base import OpenSource, Reader
from lowregret.errors import DataError

READERS: tuple[Reader, ...] = (
    csv.READER,
    json.READER,
    jsonl.READER,
    parquet.READER,
    builtin.READER,
    hub.READER,
)

FILE_SUFFIXES = tuple(sorted(suffix for reader in READERS for suffix in reader.suffixes))
SOURCE_PREFIXES = tuple(reader.prefix for reader in READERS if reader.prefix)
"""How sources begin that are neither files nor hub datasets."""
_FILE_TYPE = re.compile(r"\.[A-Za-z]\w*$")
"""`org/data-v1.5` is a hub id, so a suffix starts with a letter."""


def open_source(source: str) -> OpenSource:
    """Find out what `source` is. Raises DataError when it is nothing that can be read."""
    return find_reader(source).open(source, lambda: _advice(source))


def find_reader(source: str) -> Reader:
    """The reader of this source. Raises DataError for a folder, a file that is missing or of an unknown type, and for
    what is neither a file nor an id."""
    for reader in READERS:
        if reader.prefix and source.startswith(reader.prefix):
            return reader
    if os.path.isdir(source):
        inside = [name for name in sorted(os.listdir(source)) if name.lower().endswith(FILE_SUFFIXES)]
        hint = f"Name a file in it: {', '.join(inside[:8])}." if inside else f"Name a {_listed(FILE_SUFFIXES)} file."
        raise DataError(f"is a folder. {hint}", source=source)
    if os.path.exists(source):
        return _file_reader(source)
    if _looks_like_a_file(source):
        raise DataError(f"no such file. {_nearest_files(source)}", source=source)
    for reader in READERS:
        if reader.pattern is not None and reader.pattern.fullmatch(source):
            return reader
    raise DataError(f"neither an existing file nor a dataset id. Give {_valid_sources()}.", source=source)


def _file_reader(source: str) -> Reader:
    suffix = Path(source).suffix.lower()
    for reader in READERS:
        if suffix in reader.suffixes:
            return reader
    raise DataError(
        f"unknown file type {suffix or '(no suffix)'}. Valid: {', '.join(FILE_SUFFIXES)}. Convert or rename it.",
        source=source,
    )


def _looks_like_a_file(source: str) -> bool:
    # Hub ids have one slash and none in front.
    return (
        source.lower().endswith(FILE_SUFFIXES)
        or source.startswith((".", "/", "~"))
        or source.count("/") > 1
        or ("/" in source and _FILE_TYPE.search(source) is not None)
    )


def _nearest_files(source: str) -> str:
    path = Path(source)
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return f"There is no folder {path.parent} either; check the path."
    readable = [name for name in names if name.lower().endswith(FILE_SUFFIXES)]
    near = get_close_matches(path.name, names, n=3) or readable[:5]
    if not near:
        return f"{path.parent} holds no {_listed(FILE_SUFFIXES)} file; check the path."
    return f"Nearest in {path.parent}: {', '.join(near)}."


def _advice(source: str) -> str:
    near = f"{_nearest_files(source)} " if _FILE_TYPE.search(source) else ""
    return f"{near}Give {_valid_sources()}"


def _valid_sources() -> str:
    others = [reader.spelling for reader in READERS if not reader.suffixes]
    return _listed((f"a {_listed(FILE_SUFFIXES)} file", *others), ", or ")


def _listed(names: tuple[str, ...], last: str = " or ") -> str:
    return f"{', '.join(names[:-1])}{last}{names[-1]}"
