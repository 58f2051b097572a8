"""How files of a run folder are written and read: a kill at any moment loses nothing that was written before."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lowregret import foreign
from lowregret.errors import RecordsError
from lowregret.spec import Spec
from lowregret.strict_json import to_json

R = TypeVar("R", bound=Spec)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a RecordsError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "the disk is full. Free some space and run the same command again; what was written stays valid."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "no permission to write here. Choose another folder with --out, or change its permissions."
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            remedy = "a file stands where a folder is needed. Choose another folder with --out."
        else:
            remedy = f"{error.strerror or error}."
        raise RecordsError(f"{error.filename or path}: {remedy}") from error


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
    """A path to write aside; it becomes `path`, durably, when the context ends well, and goes when it does not."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        try:
            yield partial
            sync_file(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with writing(path), open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a rename in this folder durable (a no-op where folders cannot be opened)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Spec | dict[str, Any]) -> None:
    """Write a record atomically as indented JSON; non-finite numbers become null, floats keep every bit."""
    plain = value.model_dump(mode="json") if isinstance(value, Spec) else value
    write_bytes(path, (to_json(plain, indent=2) + "\n").encode())


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


def as_record(kind: type[R], content: Any, path: Path) -> R:
    """What a file says as a record; RecordsError names the file and the field that does not fit."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordsError(
            f"{path}: field {field!r}: {first['msg']}. Delete the file and run the command again."
        ) from error
