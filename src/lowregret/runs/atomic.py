"""How files of a run folder are written and read: a kill at any moment loses nothing that was written before."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import ValidationError

from lowregret import foreign
from lowregret.errors import RecordsError
from lowregret.foreign_text import without_secrets
from lowregret.runs.boundary import HELD, entries, guard, open_regular
from lowregret.runs.portable import open_no_link
from lowregret.spec import Frozen
from lowregret.strict_json import finite, to_json

R = TypeVar("R", bound=Frozen)

PARTIAL = ".partial"
"""What the name of a file ends with while it is written beside its place."""
_ABANDONED_SECONDS = 3600.0
"""A partial file beside a place that no lock keeps is another process's, unless it is as old as this."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes or deletes `path`: RecordsError when it may not be touched (`runs.boundary`), and for what
    the operating system refuses one that names the file and the remedy.
    """
    guard(path)
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "the disk is full. Free some space and run the same command again; what was written stays valid."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "no permission to write here. Choose another folder with --out, or change its permissions."
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            remedy = "a file stands where a folder is needed. Choose another folder with --out."
        elif error.errno == errno.ELOOP:
            remedy = "is a link, which is not written through. Delete it, or choose another folder with --out."
        else:
            remedy = f"{error.strerror or error}."
        name = error.filename or path
        if str(name).startswith(f"{path}.") and str(name).endswith(PARTIAL):
            name = path  # nobody asked for the file that was written aside
        raise RecordsError(f"{name}: {remedy}") from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents; RecordsError when that is refused."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file to write aside; it becomes `path`, durably, when the context ends well, and goes when it does not.

    Its name is drawn at random and was nobody's before, so nothing that lies there is written through. Who may read it
    is what the umask says, whatever a library has made of the file: safetensors leaves 0600.
    """
    partial = _beside(path)
    with writing(path):
        try:
            os.close(open_no_link(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            mode = stat.S_IMODE(partial.stat().st_mode)
            yield partial
            sync_file(partial, mode)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same of a folder of files: whole and durable before the one that it replaces is removed."""
    partial = _beside(path)
    with writing(path):
        try:
            partial.mkdir(parents=True)
            mode = stat.S_IMODE(partial.stat().st_mode) & 0o666
            yield partial
            for entry in partial.rglob("*"):
                if entry.is_dir() and not entry.is_symlink():
                    sync_folder(entry)
                else:
                    sync_file(entry, mode)
            sync_folder(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
        sync_folder(path.parent)


def _beside(path: Path) -> Path:
    """A name that nothing has. What a killed write has left here goes; in a run folder its lock's holder sees to it."""
    if not HELD.get():
        for left in path.parent.glob(f"{_glob(path.name)}.*{PARTIAL}"):
            with suppress(OSError):  # another process may be removing it
                if time.time() - left.lstat().st_mtime > _ABANDONED_SECONDS:
                    _remove(left)
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def _glob(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes were writing; for who has locked the folder, and so is the only one to write."""
    for entry in list(entries(folder, locked=False)):
        if entry.name.endswith(PARTIAL):
            with writing(Path(entry.path)):
                _remove(Path(entry.path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_file(path: Path) -> None:
    """Delete a file if it is there."""
    with writing(path):
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder, if it is there, with all that it holds; a link is left as it is."""
    with writing(path):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """A file to append to, made if need be; never through a link, nor into a pipe, a device or a file of two names."""
    with writing(path), os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
        yield file


def sync_file(path: Path, mode: int | None = None) -> None:
    """Make what was written to a file durable, and let it have these permissions."""
    with writing(path):
        descriptor = open_no_link(path, os.O_RDWR)
        try:
            if mode is not None and hasattr(os, "fchmod") and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a rename in this folder durable (a no-op where folders cannot be opened)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Frozen | dict[str, Any]) -> None:
    """Write a record atomically as indented JSON, without secrets; non-finite numbers become null, floats keep every
    bit. RecordsError, and nothing is written, where that could not be read again: of a field that must have a number.
    """
    plain = without_secrets(value.model_dump(mode="json") if isinstance(value, Frozen) else value)
    if isinstance(value, Frozen):
        _require_readable(type(value), finite(plain), path)
    write_bytes(path, (to_json(plain, indent=2) + "\n").encode())


def _require_readable(kind: type[Frozen], plain: Any, path: Path) -> None:
    try:
        kind.model_validate(plain)
    except ValidationError as error:
        raise RecordsError(
            f"{path}: not written, for it could not be read again: {_first(error)}. This is a fault of lowregret; "
            "please report it."
        ) from error


def _first(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    first = error.errors()[0]
    return f"field {'.'.join(str(part) for part in first['loc'])!r}: {first['msg']}"


DELETE = "Delete it and run the same command again."


def read_json(path: Path) -> Any:
    """Parse a record; RecordsError says which file is damaged and what to do."""
    try:
        return foreign.read_json(path, RecordsError, DELETE)
    except FileNotFoundError as error:
        raise RecordsError(f"{path}: cannot be read ({error.strerror}).") from error


def read_record(kind: type[R], path: Path) -> R:
    """Read one record of a known shape."""
    return as_record(kind, read_json(path), path)


def as_record(kind: type[R], content: Any, path: Path, remedy: str = "Delete the file and run the command again.") -> R:
    """What a file says as a record; RecordsError names the file and the field that does not fit."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RecordsError(f"{path}: {_first(error)}. {remedy}") from error
