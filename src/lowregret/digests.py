"""SHA-256 of files: those of large ones are remembered for as long as the file looks untouched."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lowregret.folders import cache_folder
from lowregret.strict_json import to_json

LARGE = 16_000_000
"""Bytes from which on a digest is remembered: what is smaller is hashed in some hundredths of a second."""
_FILE = "digests.json"
_REMEMBERED = 1_000
_THREADS = 4
Stamp = list[int]
"""Size, inode, and the times of the last change of the content and of the inode, in nanoseconds."""


def digest_files(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, hexadecimal, several at a time. Raises OSError."""
    known = _known()
    stamps = [_stamp(path) for path in paths]
    keys = [os.path.realpath(path) for path in paths]

    def digest(index: int) -> str:
        entry = known.get(keys[index])
        if entry is not None and entry[0] == stamps[index]:
            return entry[1]
        with open(paths[index], "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(digest, range(len(paths))))
    new = {
        key: (stamp, value)
        for path, key, stamp, value in zip(paths, keys, stamps, found, strict=True)
        if stamp[0] >= LARGE and stamp == _stamp(path)  # not of one that changed while it was read
    }
    if any(known.get(key) != entry for key, entry in new.items()):
        _remember({**{key: entry for key, entry in known.items() if key not in new}, **new})
    return found


def forget_digests() -> None:
    """Every file is read again: for those who do not trust the times of their files, or their disk."""
    with suppress(OSError):
        (cache_folder() / _FILE).unlink()


def _stamp(path: Path) -> Stamp:
    found = os.stat(path)
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _known() -> dict[str, tuple[Stamp, str]]:
    """File → its stamp and digest, the youngest last; nothing where that cannot be read."""
    try:
        stored = json.loads((cache_folder() / _FILE).read_bytes())
        return {
            key: (list(stamp), value)
            for key, (stamp, value) in stored.items()
            if isinstance(value, str) and len(value) == 64
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(entries: dict[str, tuple[Stamp, str]]) -> None:
    """Best effort: without it files are read again."""
    folder = cache_folder()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=folder, prefix=f"{_FILE}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(to_json(dict(list(entries.items())[-_REMEMBERED:])))
        os.replace(partial, folder / _FILE)
