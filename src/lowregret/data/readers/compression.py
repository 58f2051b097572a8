"""A file's bytes, decompressed. Its first bytes decide what it is, whatever its name says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from lowregret import limits
from lowregret.data.readers.base import unreadable
from lowregret.errors import DataError
from lowregret.foreign import open_file, reason

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes that may follow that of a text format."""


def _open_zstandard(source: str) -> IO[bytes]:
    import pyarrow

    # Python has it from 3.14 only. Arrow's stream cannot read lines.
    return io.BufferedReader(pyarrow.input_stream(source, compression="zstd"))


_BY_MAGIC: tuple[tuple[bytes, Callable[[str], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"\x28\xb5\x2f\xfd", _open_zstandard),
)
_NO_TEXT = (
    (b"PK\x03\x04", "is a zip archive. Unpack it and name the file in it"),
    (b"PAR1", "holds Parquet. Name it .parquet"),
    (b"ARROW1", "holds an Arrow table. Name it .arrow"),
    (b"\xff\xff\xff\xff", "holds an Arrow table. Name it .arrow"),
    (b"%PDF", 'is a PDF. Write its texts to a .jsonl file, one {"text": …} a line'),
)
_CHUNK = 1 << 20
_LFS = b"version https://git-lfs"
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


class _Unpacked(io.RawIOBase):
    """The content of a compressed file. DataError when it is out of all proportion to the file."""

    def __init__(self, source: str, stream: Any) -> None:
        self._source, self._stream, self._count = source, stream, 0
        self._most = most_bytes(source)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._count += len(content)
        if self._count > self._most:
            raise expands(self._source, self._most)
        buffer[: len(content)] = content
        return len(content)


def most_bytes(source: str) -> int:
    """What a compressed file may become."""
    return max(limits.SMALL_BYTES, limits.EXPANSION.value * os.path.getsize(source))


def expands(source: str, most: int) -> DataError:
    """The error of a file that becomes more than that."""
    return DataError(
        f"becomes more than {most:,} bytes when it is decompressed, over {limits.EXPANSION.value} times its size. "
        f"{limits.EXPANSION.raised}.",
        source=source,
    )


@contextmanager
def open_bytes(source: str) -> Iterator[IO[bytes]]:
    """The content of a text file to be read from its start.

    Raises DataError, here or while it is read, when the system refuses the file, when it is damaged, and when its first
    bytes are those of something that is no text.
    """
    start = first_bytes(source)
    for magic, what in _NO_TEXT:
        if start.startswith(magic):
            raise DataError(f"{what}.", source=source)
    opener = next((opener for magic, opener in _BY_MAGIC if start.startswith(magic)), None)
    try:
        if opener is None:
            with open_file(source, DataError) as stream:
                yield stream
        else:
            with opener(source) as packed, io.BufferedReader(_Unpacked(source, packed), _CHUNK) as stream:
                yield stream
    except UnicodeError:
        raise
    except _DAMAGE as error:
        if opener is None and isinstance(error, OSError):
            raise unreadable(source, error) from None
        if opener is None:
            raise
        raise DataError(
            f"damaged or cut off: it cannot be decompressed ({reason(error)}). Fetch or make it again.",
            source=source,
        ) from None


def first_bytes(source: str) -> bytes:
    """As many as say what a file is. Raises DataError when it cannot be read or only points to its content."""
    try:
        with open_file(source, DataError) as file:
            start = file.read(32)
    except OSError as error:
        raise unreadable(source, error) from None
    if start.startswith(_LFS):
        raise DataError("is a pointer of Git LFS, not the file. Run `git lfs pull` in its folder.", source=source)
    return start
