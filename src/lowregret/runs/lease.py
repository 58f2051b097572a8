"""Who writes a part of what a store holds: a lease, kept in objects that are created only where none is.

The lease with the highest number counts. Its holder writes it anew every few seconds, which shows that it lives. Who
finds one that is released, whose process on this machine is gone, or that is silent for `SILENT_SECONDS` by its own
clock, creates the next number, which one of many can. A holder that was silent finds that out at its next sign of life;
what it writes until then is refused, because records are numbered in the same way (`runs.mirror`).
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from lowregret.errors import FolderLockedError, StoreError
from lowregret.runs.holder import Holder
from lowregret.runs.store import Store
from lowregret.strict_json import to_json

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_LEASES, _RELEASED = "leases", b"{}"
_NUMBER = re.compile(r"[0-9]{9}")


@dataclass
class Lease:
    """A part that is ours, until `lost` says otherwise."""

    holder: Holder
    number: int
    lost: bool = False


@contextmanager
def leasing(store: Store, part: str) -> Iterator[Lease]:
    """The lease of a part, for as long as the context lasts. FolderLockedError when another has it, found out within
    half a minute; StoreError where a store lets two have it."""
    lease = _taken(store, part)
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, part, lease, over), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):
            if not lease.lost:
                store.put(_key(part, lease.number), _RELEASED)


def leases_in(store: Store) -> dict[str, bytes]:
    """Part → what its newest lease says; without those that were released. Who lives says something else after
    `BEAT_SECONDS`."""
    newest = {key.split("/")[1]: key for key in numbered(store.keys(_LEASES))}
    found = {part: store.get(key) for part, key in newest.items()}
    return {part: said for part, said in found.items() if said not in (None, _RELEASED)}


def numbered(keys: Iterable[str]) -> list[str]:
    """Those that end with a number, in order: what else lies beside them is nobody's."""
    return [key for key in keys if _NUMBER.fullmatch(key.rpartition("/")[2])]


def holder_in(lease: bytes) -> Holder | None:
    """Who has a lease, as it says; None for one that is damaged."""
    said = _said(lease)
    words = [said.get(name) for name in ("machine", "host", "token")]
    pid = said.get("pid")
    if type(pid) is not int or not all(isinstance(word, str) for word in words):
        return None
    return Holder(str(words[0]), str(words[1]), pid, str(words[2]))


def _taken(store: Store, part: str) -> Lease:
    holder, machine = Holder.here(), _processes()
    content = to_json({**asdict(holder), "processes": machine, "beat": 0}).encode()
    while True:
        number, found = _latest(store, part)
        if found and not _is_gone(found, holder.machine, machine):
            _require_silence(store, part, number, found)
        mine = _key(part, number + 1)
        if not store.create(mine, content):
            continue
        if store.create(mine, content):
            raise StoreError(
                f"{store.url}: this store ignores `If-None-Match`, so two programs could write there at once. Use one "
                "that has conditional writes (Amazon S3, Google Cloud Storage, Azure, MinIO, Ceph since 19)."
            )
        for old in store.keys(f"{_LEASES}/{part}"):
            if old < mine:
                store.remove(old)
        return Lease(holder, number + 1)


def _latest(store: Store, part: str) -> tuple[int, bytes]:
    """The highest number, and what its lease says; b"" where it was released, or there is none."""
    keys = numbered(store.keys(f"{_LEASES}/{part}"))
    if not keys:
        return 0, b""
    found = store.get(keys[-1]) or b""
    return int(keys[-1].rpartition("/")[2]), b"" if found == _RELEASED else found


def _require_silence(store: Store, part: str, number: int, found: bytes) -> None:
    """FolderLockedError at the first sign of life of who has the lease."""
    end = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        now, there = _latest(store, part)
        if (now, there) != (number, found):
            if not there:
                return
            who = _said(there)
            raise FolderLockedError(
                f"{store.url}: process {who.get('pid')} on {who.get('host')} is writing {part} there. Wait for it, or "
                "use another --store."
            )


def _is_gone(found: bytes, machine: str, processes: str) -> bool:
    """Whether a lease is that of a process of this machine which has ended."""
    who = _said(found)
    if (who.get("machine"), who.get("processes")) != (machine, processes) or not isinstance(who.get("pid"), int):
        return False
    try:
        os.kill(int(str(who["pid"])), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _said(lease: bytes) -> dict[str, object]:
    try:
        found = json.loads(lease)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _processes() -> str:
    """Which numbers of processes mean the same: containers of one machine have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _key(part: str, number: int) -> str:
    return f"{_LEASES}/{part}/{number:09}"


def _beat(store: Store, part: str, lease: Lease, over: threading.Event) -> None:
    count, machine = 0, _processes()
    while not over.wait(BEAT_SECONDS):
        count += 1
        with suppress(StoreError):  # it may answer the next time
            if _latest(store, part)[0] != lease.number:
                lease.lost = True
                return
            said = {**asdict(lease.holder), "processes": machine, "beat": count}
            store.put(_key(part, lease.number), to_json(said).encode())
