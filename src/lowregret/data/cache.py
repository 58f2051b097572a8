"""Encoded rows kept between runs: a folder for each source, tokenizer and template, in the user's cache.

An entry holds `rows.arrow`, a stream of record batches that is mapped and never loaded, and `about.json`, what is to be
told of them and the file's checksum. It is made aside and renamed, so that another process sees all of it or nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lowregret.data.table import SCHEMA
from lowregret.folders import cache_folder
from lowregret.strict_json import to_json

LIMIT_BYTES = 10_000_000_000
"""Of all entries: those that were used longest ago are removed beyond it. A million short rows take 0.3 GB."""

_ROWS, _ABOUT = "rows.arrow", "about.json"
_PARTIAL = ".partial-"
_ABANDONED_SECONDS = 86_400
"""After so long an unfinished entry is taken for one whose process was killed."""


@dataclass(frozen=True)
class Kept:
    """Encoded rows and what is told of them."""

    batches: Sequence[pa.RecordBatch]
    about: Mapping[str, Any]
    folder: Path | None
    """Where they are kept; None when they are in memory only."""
    problem: str = ""
    """Why they are in memory only."""


def find(key: str) -> Kept | None:
    """The entry of a key; None when there is none, or a damaged one, which is removed."""
    folder = cache_folder() / key
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if _checksum(folder / _ROWS) != about["checksum"]:
            raise ValueError("damaged")
        batches = _map(folder / _ROWS)
        with suppress(OSError):  # a cache that may only be read
            os.utime(folder)
        return Kept(batches, about["about"], folder)
    except (OSError, ValueError, KeyError, TypeError):  # also half an entry: a kill while it was being removed
        shutil.rmtree(folder, ignore_errors=True)
    return None


class Writer:
    """Takes record batches, on disk as long as the disk takes them, else in memory."""

    def __init__(self, key: str) -> None:
        self._final = cache_folder() / key
        self._held: list[pa.RecordBatch] = []
        self._written = 0
        self._problem = ""
        self._partial: Path | None = None
        self._file: Any = None
        self._stream: Any = None
        try:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            self._partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._final.parent))
            self._file = pa.OSFile(str(self._partial / _ROWS), "wb")
            self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        except OSError as error:
            self._go_on_in_memory(error)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Write them."""
        for batch in batches:
            if self._stream is None:
                self._held.append(batch)
                continue
            try:
                self._stream.write_batch(batch)
                self._written += 1
            except OSError as error:
                self._go_on_in_memory(error)
                self._held.append(batch)

    def keep(self, about: Mapping[str, Any]) -> Kept:
        """End the entry: it is there for the next run, or what was written is in memory."""
        if self._partial is not None:
            try:
                return self._publish(about)
            except OSError as error:
                self._go_on_in_memory(error)
        return Kept(self._held, about, None, self._problem)

    def leave(self, about: Mapping[str, Any], problem: str) -> Kept:
        """End without an entry for the next run, for this reason."""
        if self._partial is not None:
            self._close()
            self._held = _map(self._partial / _ROWS)
            self._discard()
        return Kept(self._held, about, None, problem)

    def _publish(self, about: Mapping[str, Any]) -> Kept:
        assert self._partial is not None
        self._close()
        content = {"about": about, "checksum": _checksum(self._partial / _ROWS)}
        (self._partial / _ABOUT).write_text(to_json(content), encoding="utf-8")
        batches = _map(self._partial / _ROWS)
        try:
            self._partial.rename(self._final)
        except OSError:
            if not (self._final / _ABOUT).exists():
                raise
            # Another process has made the same entry meanwhile: ours stays mapped, its name goes.
        self._discard()
        _remove_oldest(keep=self._final)
        return Kept(batches, about, self._final)

    def _go_on_in_memory(self, error: OSError) -> None:
        """Read what was written, and free the disk."""
        self._problem = error.strerror or str(error)
        if self._written:
            assert self._partial is not None
            with pa.OSFile(str(self._partial / _ROWS)) as file, pa.ipc.open_stream(file) as stream:
                self._held = [stream.read_next_batch() for _ in range(self._written)]
        self._discard()

    def _close(self) -> None:
        self._stream.close()
        self._file.close()

    def _discard(self) -> None:
        """Remove the unfinished entry, if there is one; what is mapped stays so."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
        self._partial = self._stream = self._file = None


def _map(path: Path) -> list[pa.RecordBatch]:
    with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
        if stream.schema != SCHEMA:
            raise ValueError("columns of another version")
        return list(stream)


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found


def _remove_oldest(keep: Path) -> None:
    """Bring the cache under LIMIT_BYTES, and remove what killed processes left."""
    entries = []
    for folder in cache_folder().iterdir():
        with suppress(OSError):  # another process may be removing it
            used = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if folder.name.startswith(_PARTIAL):
                if time.time() - used > _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            elif (folder / _ABOUT).exists():
                entries.append((used, sum(file.stat().st_size for file in folder.iterdir()), folder))
    left = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if left <= LIMIT_BYTES:
            break
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            left -= size
