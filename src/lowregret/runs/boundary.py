"""What a run may touch: its own folder, for as long as its lock is the one that lies there.

A run folder can come from somebody else. So a name that was read from a file becomes a path by `within` alone, and
`guard` stands before everything that is written or deleted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from lowregret.errors import RecordsError
from lowregret.foreign import real_path
from lowregret.runs.files import LOCK
from lowregret.runs.portable import open_no_link, read_start

_MOST_BYTES = 4096
NAME = r"^[\w+=-][\w+=.-]{0,199}$"
"""Of a trial or a group: one part of a path, which hides nothing and leads nowhere else."""


@dataclass(frozen=True)
class Held:
    """A run folder that this process has locked."""

    folder: Path
    """As it was named."""
    root: Path
    """Where that is, links resolved."""
    lock: int
    """The descriptor of its lock."""
    token: str = ""
    """That this process has written into it; empty where the disk refused."""


HELD: ContextVar[tuple[Held, ...]] = ContextVar("HELD", default=())
"""The folders that are locked here; `runs.lock` sets it."""


def within(root: Path, name: str) -> Path:
    """The path of a name that was read from a file; RecordsError when it is no plain name, or leads out of `root`."""
    if not re.fullmatch(NAME, name):
        raise RecordsError(
            f"{root}: {name!r} is no name of a folder in it: letters, digits and . _ + = - are. The record that says "
            "so is damaged or made for harm: delete it, or use another --out."
        )
    path = root / name
    if path.is_symlink() and not real_path(path).is_relative_to(real_path(root)):
        raise leads_out(path)
    return path


def guard(path: Path) -> None:
    """Before `path` is written or deleted, where it is part of a locked run folder.

    RecordsError when it lies outside of the folder by a link on its way, or when the lock is no longer there: the file
    was removed or replaced, and another process may have locked the new one. Nothing can be done about the moment
    between this look and the write.
    """
    held = HELD.get()
    if not held:
        return
    real = real_path(path.parent) / path.name
    for one in held:
        if path == one.folder:
            continue
        if path.is_relative_to(one.folder) and not real.is_relative_to(one.root):
            raise leads_out(path)
        if real.is_relative_to(one.root) and not still_locked(one):
            raise RecordsError(
                f"{one.folder / LOCK}: was removed or replaced, or taken over, while this process was writing here, "
                "so another one may be writing now. This one stops and writes nothing more. See that no other runs, "
                "then run the same command again."
            )


def still_locked(held: Held) -> bool:
    """Whether the file at the lock's path is the one that this process has locked, and names no other holder: where
    locks do not reach from machine to machine, one that was silent for long is taken to be gone."""
    return is_same(held.lock, held.root / LOCK) and names(held.lock, held.token)


def names(lock: int, token: str) -> bool:
    """Whether a lock says this token, or nobody's."""
    try:
        said = read_start(lock, _MOST_BYTES)
    except OSError:
        return True
    return not token or not said or token.encode() in said


def is_same(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path; a link there is another."""
    try:
        there = path.lstat()
    except OSError:
        return False
    own = os.fstat(descriptor)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file of its own, made if need be; RecordsError for a link, a pipe or a device."""
    descriptor = open_no_link(path, flags)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    what = "has a second name elsewhere (a hard link)" if stat.S_ISREG(found.st_mode) else "is no regular file"
    raise RecordsError(f"{path}: {what}, and is not written to. Delete it, or use another --out.")


def entries(folder: Path, *, locked: bool = True) -> Iterator[os.DirEntry[str]]:
    """Everything in a run folder. Without `locked`, a folder in it that has a lock of its own is left to its holder."""
    try:
        found = list(os.scandir(folder))
    except FileNotFoundError:  # a worker of a killed session may be ending
        return
    for entry in found:
        yield entry
        if entry.is_dir(follow_symlinks=False) and (locked or not os.path.lexists(os.path.join(entry.path, LOCK))):
            yield from entries(Path(entry.path), locked=locked)


def refuse_links(folder: Path) -> None:
    """RecordsError for a link in a run folder that leads out of it; the folder itself may be one."""
    root = real_path(folder)
    for entry in entries(folder):
        if entry.is_symlink() and not real_path(Path(entry.path)).is_relative_to(root):
            raise leads_out(Path(entry.path))


def leads_out(path: Path) -> RecordsError:
    """The error of a path that a link takes elsewhere."""
    return RecordsError(
        f"{path}: a link leads out of the run's folder, and what is written there would land elsewhere. Replace it by "
        "what it leads to, or use another --out (--out itself may be a link)."
    )
