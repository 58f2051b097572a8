"""All formats, and which of them a source is of.

A format is a file of this folder with a `READER`, listed here; tests/laws/test_readers.py then runs over it.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from lowregret.data.readers import builtin, folder, hub, saved, several
from lowregret.data.readers.base import OpenSource, Reader
from lowregret.data.readers.formats import ENDINGS, FILE_READERS, FILE_SUFFIXES, find_file_reader
from lowregret.errors import DataError

READERS: tuple[Reader, ...] = (
    *FILE_READERS,
    several.READER,
    saved.READER,
    folder.READER,
    builtin.READER,
    hub.READER,
)

SOURCE_PREFIXES = tuple(reader.prefix for reader in READERS if reader.prefix)
"""How sources begin that are neither files nor hub datasets."""
_FILE_TYPE = re.compile(r"\.[A-Za-z]\w*$")
"""`org/data-v1.5` is a hub id, so a suffix starts with a letter."""


def open_source(source: str) -> OpenSource:
    """Find out what `source` is. Raises DataError when it is nothing that can be read."""
    return find_reader(source).open(source, lambda: _advice(source))


def is_data(source: str) -> bool:
    """Whether a name is, by its form, that of data and not of a model: a file of data even if it is not there, several,
    a folder that `save_to_disk` wrote, or a builtin. Hub ids and other folders say neither."""
    return (
        source.startswith(SOURCE_PREFIXES)
        or source.lower().endswith(ENDINGS)
        or several.claims(source)
        or saved.claims(source)
    )


def find_reader(source: str) -> Reader:
    """The reader of this source. Raises DataError for a file that is missing or of an unknown type, and for what is
    neither a file nor an id."""
    for reader in READERS:
        if reader.prefix and source.startswith(reader.prefix):
            return reader
    for reader in READERS:
        if reader.claims is not None and reader.claims(source):
            return reader
    if os.path.exists(source):
        return find_file_reader(source)
    if _looks_like_a_file(source):
        raise DataError(f"no such file. {_nearest_files(source)}", source=source)
    for reader in READERS:
        if reader.pattern is not None and reader.pattern.fullmatch(source):
            return reader
    raise DataError(f"neither an existing file nor a dataset id. Give {_valid_sources()}.", source=source)


def _looks_like_a_file(source: str) -> bool:
    # Hub ids have one slash and none in front.
    return (
        source.lower().endswith(ENDINGS)
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
    readable = [name for name in names if name.lower().endswith(ENDINGS)]
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
