"""A file that grows, read a part at a time: by its offset, whole lines, from the start where it is another file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

from lowregret.errors import RecordsError
from lowregret.runs.boundary import open_regular

PART_BYTES = 4_000_000
"""Of one reading: what is longer comes with the next ones. A line of more is left out."""
_SEEN_BYTES = 64
"""Before the offset: by them a file is known again."""


@dataclass(frozen=True)
class Fresh:
    """What a reading has found."""

    lines: tuple[bytes, ...]
    """Whole lines, without their ends."""
    again: bool
    """They are the first of a file that has taken the place of the one read before, or was cut."""
    more: bool
    """There is more to read at once."""


NOTHING = Fresh((), False, False)


@final
class Tail:
    """One file. It need not be there yet; one that goes and comes back is another.

    A file is the same while it has its inode, is no shorter than what was read of it, and still holds the last bytes
    that were read: records are appended to, or replaced whole (`runs.atomic`). What follows the last line end is not
    read: it is half a line, or the zeros of a power cut.
    """

    def __init__(self, path: Path, *, most: int = PART_BYTES) -> None:
        self.path, self._most = path, most
        self._file: tuple[int, int] | None = None
        self._at = 0
        self._seen = b""
        self._skipping = False
        """In the middle of a line that is too long."""

    def read(self) -> Fresh:
        """The lines that have come since; nothing where there is no file, a link, or what is no file of its own."""
        try:
            descriptor = open_regular(self.path, os.O_RDONLY)
        except (OSError, RecordsError):
            return NOTHING
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            again = self._is_another(found, file)
            if again:
                self._forget((found.st_dev, found.st_ino))
            if found.st_size == self._at:
                return Fresh((), again, False)
            file.seek(self._at)
            return self._taken(file.read(self._most), again, found.st_size)

    def _is_another(self, found: os.stat_result, file: BinaryIO) -> bool:
        if self._file is None:
            self._file = (found.st_dev, found.st_ino)
            return False
        if self._file != (found.st_dev, found.st_ino) or found.st_size < self._at:
            return True
        file.seek(self._at - len(self._seen))
        return file.read(len(self._seen)) != self._seen

    def _forget(self, file: tuple[int, int]) -> None:
        self._file, self._at, self._seen, self._skipping = file, 0, b"", False

    def _taken(self, part: bytes, again: bool, size: int) -> Fresh:
        end = part.rfind(b"\n") + 1
        if end == 0 and len(part) == self._most:
            self._skipping = True
            end = len(part)
            whole: list[bytes] = []
        else:
            whole = part[:end].split(b"\n")[:-1]
            if self._skipping and whole:
                del whole[0]
                self._skipping = False
        self._at += end
        self._seen = (self._seen + part[:end])[-_SEEN_BYTES:]
        return Fresh(tuple(whole), again, end > 0 and self._at < size)
