"""Who has locked a run folder, written into its lock: so that machines whose locks do not reach each other see it.

`flock` decides on one machine, and over NFS where both mounts take locks. Where one keeps them to itself (`nolock`,
`local_lock=flock`), the lock of another machine looks free; then its holder, who shows every few seconds that it lives,
is what keeps others out. Times are compared as the file server gives them, never those of two machines.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lowregret.errors import RecordsError
from lowregret.runs.boundary import names, open_regular
from lowregret.runs.files import LOCK
from lowregret.runs.portable import write_start
from lowregret.strict_json import to_json

BEAT_SECONDS = 10.0
"""Between two signs of life."""
SILENT_SECONDS = 60.0
"""After so long without one, a holder on another machine is taken to be gone."""
_MOST_BYTES = 4096
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """A process that has, or had, a folder's lock."""

    machine: str
    """Names a kernel, and with it everybody whose locks meet."""
    host: str
    pid: int
    token: str
    """Of this holding alone."""

    @classmethod
    def here(cls) -> Holder:
        try:
            machine = _BOOT.read_text().strip()
        except OSError:
            machine = platform.node()
        return cls(machine, platform.node(), os.getpid(), secrets.token_hex(8))


def holder_of(folder: Path) -> Holder | None:
    """Who holds a folder's lock, or held it when its machine stopped; None for nobody."""
    try:
        with os.fdopen(open_regular(folder / LOCK, os.O_RDONLY), "rb") as file:
            found = Holder(**json.loads(file.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError, RecordsError):
        return None
    words = (found.machine, found.host, found.token)
    return found if all(isinstance(word, str) for word in words) and type(found.pid) is int else None


def held_by(folder: Path) -> str | None:
    """The token of who holds a folder's lock; None for nobody."""
    found = holder_of(folder)
    return None if found is None else found.token


def silent_seconds(folder: Path) -> float:
    """Since the last sign of life of who holds the lock, by the clock of the file system."""
    probe = folder / f"{LOCK}.{secrets.token_hex(8)}.partial"
    try:
        with probe.open("xb") as file:
            file.write(b".")
            file.flush()
            now = os.fstat(file.fileno()).st_mtime
        return now - (folder / LOCK).stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def elsewhere(folder: Path) -> tuple[Holder, float] | None:
    """A holder on another machine that lives, with the seconds since it showed so; None where there is none."""
    found = holder_of(folder)
    if found is None or found.machine == Holder.here().machine:
        return None
    silent = silent_seconds(folder)
    return (found, silent) if abs(silent) < SILENT_SECONDS else None  # one of the future was copied here


@contextmanager
def holding(lock: int) -> Iterator[str]:
    """Say in a lock, by its descriptor, that this process has it, and show that it lives, for as long as it names no
    other. Yields the token that is in it; empty where the disk refused, which costs what other machines could have
    seen, no more."""
    holder, token = Holder.here(), ""
    with suppress(OSError):
        write_start(lock, to_json(asdict(holder)).encode())
        token = holder.token
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(lock, token, over), daemon=True)
    thread.start()
    try:
        yield token
    finally:
        over.set()
        thread.join()
        if names(lock, token):
            with suppress(OSError):
                os.ftruncate(lock, 0)


def _beat(lock: int, token: str, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        if names(lock, token):
            with suppress(OSError):
                os.utime(lock)
