"""What systems differ in when a file is opened, read and locked: POSIX here, Windows there.

The package `filelock` opens and empties the file by itself; a run's lock says who holds it and is opened as a file that
may be a stranger's, so it is locked by its descriptor.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LOCKED_BYTE = 2**30
"""Windows locks bytes, and nobody else may read those: one far behind what a lock says."""


def open_no_link(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor; OSError for a link."""
    if not NO_FOLLOW and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return os.open(path, flags | _FLAGS, mode)


def read_start(descriptor: int, most: int) -> bytes:
    """The first bytes of an open file."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, most, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, most)


def write_start(descriptor: int, said: bytes) -> None:
    """Make this all that an open file holds."""
    os.ftruncate(descriptor, 0)
    if hasattr(os, "pwrite"):
        os.pwrite(descriptor, said, 0)
    else:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, said)


def lock(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file for this process until it is closed; BlockingIOError where another has it and none waits.

    OSError where the file system cannot lock.
    """
    try:
        import fcntl
    except ImportError:
        _lock_byte(descriptor, wait=wait)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _lock_byte(descriptor: int, *, wait: bool) -> None:
    import msvcrt

    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    while True:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "locked") from None
        else:
            return
