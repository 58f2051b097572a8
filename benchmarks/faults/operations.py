"""The file operations of this process under one folder: counted, and one of them made to fail.

What Python does is seen: opening for writing, writing, flushing to the disk, renaming, linking, deleting, making and
removing folders, and safetensors' own writing of a file. `pretend` is for a process that ends with the run: it takes
nothing back.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = ("write", "tensors")
ACTIONS: dict[str, tuple[str, ...]] = {
    "open": ("kill", "ENOSPC", "EIO"),
    "write": ("kill", "torn", "short", "EIO"),
    "tensors": ("kill", "torn", "short", "EIO"),
    "fsync": ("kill", "EIO"),
    "replace": ("kill", "ENOSPC", "EIO"),
    "link": ("kill", "EIO"),
    "unlink": ("kill", "EIO"),
    "mkdir": ("kill", "ENOSPC"),
    "rmdir": ("kill", "EIO"),
}
"""Operation → what may become of it. `kill`: SIGKILL just before it. `torn`: half of the bytes, then SIGKILL. `short`:
half of the bytes, then a full disk."""


@dataclass(frozen=True)
class Operation:
    """One of a run's, in the order in which they happen."""

    kind: str
    path: str
    """Under the run's folder."""


class Operations:
    """Those under `root`; the one of this number, from 1, meets `action`."""

    def __init__(self, root: Path, number: int | None = None, action: str = "") -> None:
        self.root, self.number, self.action = str(root), number, action
        self.seen: list[Operation] = []

    def meet(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """An operation is about to happen; `half` does half of a write."""
        if not path.startswith(self.root):
            return
        self.seen.append(Operation(kind, path.removeprefix(self.root).lstrip("/")))
        if len(self.seen) != self.number:
            return
        if self.action in ("torn", "short"):
            half()
        if self.action in ("kill", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.ENOSPC if self.action == "short" else getattr(errno, self.action)
        raise OSError(number, os.strerror(number), path)


def pretend(found: Operations) -> None:
    """From now on this process's file operations go by `found`."""
    _folders(found)
    _files(found)
    _tensors(found)


def _path(name: Any, dir_fd: int | None = None) -> str:
    if isinstance(name, int):
        return os.readlink(f"/proc/self/fd/{name}")
    text = os.fsdecode(name)
    return text if dir_fd is None or os.path.isabs(text) else os.path.join(_path(dir_fd), text)


def _folders(found: Operations) -> None:
    for kind, name in (("unlink", "unlink"), ("unlink", "remove"), ("rmdir", "rmdir"), ("mkdir", "mkdir")):
        _wrap(name, lambda path, *rest, kind=kind, dir_fd=None, **_: found.meet(kind, _path(path, dir_fd)))
    for kind, name in (("replace", "replace"), ("replace", "rename"), ("link", "link")):
        _wrap(name, lambda source, target, *rest, kind=kind, **_: found.meet(kind, _path(target)))
    _wrap("fsync", lambda descriptor: found.meet("fsync", _path(descriptor)))

    def opened(path: Any, flags: int, *rest: Any, dir_fd: int | None = None, **_: Any) -> None:
        if flags & os.O_CREAT:
            found.meet("open", _path(path, dir_fd))

    _wrap("open", opened)


def _wrap(name: str, meet: Callable[..., object]) -> None:
    own = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        meet(*arguments, **options)
        return own(*arguments, **options)

    setattr(os, name, call)


class _File:
    """A file that is written to, whose writes are met."""

    def __init__(self, file: Any, path: str, found: Operations) -> None:
        self._file, self._path, self._found = file, path, found

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._found.meet("write", self._path, half)
        return int(self._file.write(data))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *problem: Any) -> Any:
        return self._file.__exit__(*problem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _files(found: Operations) -> None:
    own = io.open

    def call(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        writes = any(letter in mode for letter in "wax+")
        path = _path(file) if writes else ""
        if not writes or not path.startswith(found.root):
            return own(file, mode, *rest, **options)
        if not isinstance(file, int):
            found.meet("open", path)
        return _File(own(file, mode, *rest, **options), path, found)

    io.open = builtins.open = call  # type: ignore[assignment]


def _tensors(found: Operations) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    own = safetensors.torch.serialize_file

    def call(tensors: Any, path: Any, *rest: Any, **options: Any) -> Any:
        def half() -> None:
            own(tensors, path, *rest, **options)
            os.truncate(path, os.stat(path).st_size // 2)

        try:
            found.meet("tensors", _path(path), half)
        except OSError as error:  # as safetensors says it
            raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
        return own(tensors, path, *rest, **options)

    safetensors.torch.serialize_file = call
