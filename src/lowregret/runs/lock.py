"""A run folder belongs to one spec and, while it runs, to one process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowregret.errors import FolderLockedError, RecordsError
from lowregret.runs.atomic import make_folder, read_json, write_json, writing
from lowregret.runs.files import LOCK, SPEC, STUDY, TRIAL, TRIALS
from lowregret.spec import Spec, TrainingSpec
from lowregret.version import __version__


@contextmanager
def lock_run(path: Path) -> Iterator[Path]:
    """The folder, made if need be, locked against a second process for as long as the context lasts."""
    make_folder(path)
    with writing(path):  # around the lock alone: Interrupted is an OSError too, and no matter of this folder
        lock = open(path / LOCK, "w")  # noqa: SIM115 - closed by the next line
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderLockedError(
                f"{path}: another lowregret process is writing here. Wait for it, or use another --out."
            ) from None
        except OSError as error:
            raise RecordsError(
                f"{path}: this file system cannot lock files ({error.strerror}). Use an --out on another one."
            ) from None
        yield path


def bind_spec(path: Path, spec: Spec, resolved: dict[str, Any], command: str) -> None:
    """Write spec.json, or check that the one there says the same; RecordsError tells what differs.

    `resolved` holds what the spec leaves open and the run decided: it must be repeatable too.
    """
    asked = {"spec": spec.model_dump(mode="json"), "resolved": resolved}
    file = path / SPEC
    if (path / STUDY).exists():
        raise RecordsError(f"{path}: belongs to `lowregret study`. Use another --out.")
    if not file.exists():
        if any(path.glob(f"{TRIALS}/*/{TRIAL}")) or (path / TRIAL).exists():
            raise RecordsError(f"{path}: holds trials but no {SPEC}, so whose they are is unknown. Use another --out.")
        write_json(file, {"lowregret": __version__, "command": command, **asked})
        return
    try:
        found = read_json(file)
    except RecordsError as error:
        raise RecordsError(
            f"{str(error).partition(' Delete it')[0]} Whose trials these are is unknown: use another --out."
        ) from None
    if not isinstance(found, dict):
        raise RecordsError(f"{file}: damaged: it holds no spec. Use another --out.")
    known = found.get("resolved")
    if isinstance(known, dict):  # what an earlier version did not resolve is no difference
        asked["resolved"] = {name: value for name, value in resolved.items() if name in known}
    require_same(path, {k: v for k, v in found.items() if k in asked}, asked)


def require_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """RecordsError that tells what differs between a folder's spec and the one asked for, but for fields that may."""
    differences = [
        f"  {field}: {there} there, {here} now"
        for field, there, here in _differences(found, asked)
        if field.removeprefix("spec.") not in TrainingSpec.FREE
    ]
    if differences:
        raise RecordsError(
            f"{path}: belongs to another spec:\n" + "\n".join(differences) + "\nUse another --out, or repeat the spec."
        )


def _differences(there: Any, here: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{field}.{key}" if field else key)
    elif there != here:
        yield field, there, here


def stored_spec(file: Path) -> dict[str, Any]:
    """The content of a spec.json; RecordsError when it holds no spec."""
    stored = read_json(file)
    if not isinstance(stored, dict) or not isinstance(stored.get("spec"), dict):
        raise RecordsError(f"{file}: damaged: it holds no spec. Use another --out.")
    return stored
