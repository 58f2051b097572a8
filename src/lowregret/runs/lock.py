"""A run folder belongs to one spec and, while it runs, to one process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lowregret.errors import FolderLockedError, RecordsError
from lowregret.foreign import real_path
from lowregret.foreign_text import without_secrets
from lowregret.runs import portable
from lowregret.runs.atomic import as_record, make_folder, read_json, remove_file, remove_leftovers, write_json, writing
from lowregret.runs.boundary import HELD, Held, is_same, open_regular, refuse_links
from lowregret.runs.files import LOCK, SPEC, STUDY, TRIAL, TRIALS, VERDICT
from lowregret.runs.head import Head
from lowregret.runs.holder import SILENT_SECONDS, elsewhere, holding
from lowregret.runs.spelling import is_older, respelled
from lowregret.spec import TrainingSpec
from lowregret.spec.method import spell_targets
from lowregret.version import __version__

_LOOK_SECONDS = 0.5
"""Longer than anybody looks."""
RESTORE = "Bring the file back as it was, or use another --out."


@contextmanager
def lock_run(path: Path) -> Iterator[Path]:
    """The folder, made if need be, locked against a second process for as long as the context lasts.

    What is written and deleted in it meanwhile stays in it, and ends when the lock is no longer there
    (`runs.boundary`). RecordsError for a link that leads out of it, and what killed processes were writing is removed.
    A folder that was made for a context that fails before it has written anything is taken away again, with the
    parents that were made for it: after a mistyped name nothing is left.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    lock = _locked(path, patience=_LOOK_SECONDS)
    before = HELD.get()
    try:
        with holding(lock) as token:
            HELD.set((*before, Held(path, real_path(path), lock, token)))
            refuse_links(path)
            remove_leftovers(path)
            yield path
    except BaseException:
        _take_away(path, lock, made)
        raise
    finally:
        HELD.set(before)
        os.close(lock)


def is_locked(path: Path) -> bool:
    """Whether another process writes in a run folder at this moment; it need not be there."""
    if not (path / LOCK).exists():
        return False
    try:
        os.close(_locked(path))
    except FolderLockedError:
        return True
    return False


def _locked(path: Path, patience: float = 0.0) -> int:
    """The descriptor of the folder's lock, which lies at its place and is ours; tried for so many seconds, since who
    only looks whether a folder is locked has the lock for a moment."""
    until = time.monotonic() + patience
    while True:
        with writing(path):
            lock = open_regular(path / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            portable.lock(lock)
            if is_same(lock, path / LOCK):
                _require_nobody_elsewhere(path)
                return lock
        except BlockingIOError:
            os.close(lock)
            if time.monotonic() < until:
                time.sleep(_LOOK_SECONDS / 20)
                continue
            raise FolderLockedError(
                f"{path}: another lowregret process is writing here. Wait for it, or use another --out."
            ) from None
        except FolderLockedError:
            os.close(lock)
            raise
        except OSError as error:
            os.close(lock)
            raise RecordsError(
                f"{path}: this file system cannot lock files ({error.strerror}). Use an --out on another one."
            ) from None
        os.close(lock)  # whoever had it before took it away between our two looks


def _require_nobody_elsewhere(path: Path) -> None:
    """FolderLockedError where a process of another machine writes, though its lock does not reach this one."""
    there = elsewhere(path)
    if there is not None:
        holder, silent = there
        raise FolderLockedError(
            f"{path}: process {holder.pid} on {holder.host} is writing here; it showed so {silent:.0f} s ago. Wait for "
            f"it, or use another --out. If that machine is gone, try again in {SILENT_SECONDS - silent:.0f} s."
        )


def _take_away(path: Path, lock: int, made: Sequence[Path]) -> None:
    """Those of the folders `made`, the innermost first, that hold nothing but the lock."""
    with suppress(OSError):  # a folder that holds something stays, and so do its parents
        if made and is_same(lock, path / LOCK) and [entry.name for entry in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
            for folder in made:
                folder.rmdir()


def bind_spec(path: Path, spec: TrainingSpec, resolved: dict[str, Any], command: str) -> None:
    """Write spec.json, or check that the one there says the same; RecordsError tells what differs.

    `resolved` holds what the spec leaves open and the run decided: it must be repeatable too. A spec.json of before
    0.3.0 that says the same is written anew with today's names of its methods.
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
    as_record(Head, found, file, RESTORE)
    if not is_older(found.get("lowregret")):
        today = found
    else:
        today = found | {"lowregret": __version__, "resolved": respelled(found.get("resolved"), spec.asked)}
    known = today.get("resolved")
    if isinstance(known, dict):  # what an earlier version did not resolve is no difference
        asked["resolved"] = {name: value for name, value in resolved.items() if name in known}
    require_same(path, {k: v for k, v in today.items() if k in asked}, asked)
    if today is not found:
        remove_file(path / VERDICT)  # it has the old names, and is judged again
        write_json(file, today)


def require_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """RecordsError that tells what differs between a folder's spec and the one asked for, but for fields that may.

    A folder keeps no secrets, so those of an address are no difference.
    """
    differences = [
        f"  {field}: {there} there, {here} now"
        for field, there, here in _differences(without_secrets(found), without_secrets(asked))
        if field.removeprefix("spec.") not in TrainingSpec.FREE
    ]
    if differences:
        hint = _ABOUT_ALL if any("unembedding" in line for line in differences) else ""
        raise RecordsError(
            f"{path}: belongs to another spec:\n"
            + "\n".join(differences)
            + f"{hint}\nUse another --out, or repeat the spec."
        )


def require_targets(file: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """RecordsError when a study's question is asked anew for LoRAs on other matrices than its folder has."""
    there, here = (found.get("targets"), asked.get("targets"))
    if there != here:
        raise RecordsError(
            f"{file}: its LoRAs are on {' + '.join(there or [])}, those asked for on {' + '.join(here or [])}."
            f"{_ABOUT_ALL}\nUse another --out, or --targets {spell_targets(there or [])}."
        )


_ABOUT_ALL = (
    "\nSince 0.3.0 a LoRA's targets are `all` unless they are named, and `all` includes the unembedding: what was "
    "lora:16 is lora:16:linear now."
)


def _differences(there: Any, here: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{field}.{key}" if field else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, other, f"{field}.{index}")
    elif there != here:
        yield field, there, here


def stored_spec(file: Path) -> dict[str, Any]:
    """The content of a spec.json, in today's terms; RecordsError when it holds no spec, and for a field of it that is
    not what it can be (`runs.head`)."""
    stored = read_json(file)
    if not isinstance(stored, dict) or not isinstance(stored.get("spec"), dict):
        raise RecordsError(f"{file}: damaged: it holds no spec. Use another --out.")
    as_record(Head, stored, file, RESTORE)
    if "tolerance" in stored["spec"]:  # before 0.3 it was a share of FullFT's loss, and nothing said so
        stored["spec"].setdefault("tolerance_of", "loss")
    return stored
