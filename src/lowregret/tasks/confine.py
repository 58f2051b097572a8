"""How the process that grades is shut in, and what of it holds: each limit is tried before it is believed. Torch-free.

What is graded is a model's text, and some scorers evaluate it as Python. `shut` comes before the task is loaded,
`bound` after it; `confinement` then tries to do what must not be possible.
"""

from __future__ import annotations

import math
import mmap
import os
import secrets
import socket
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress

from lowregret.tasks.walls import WALLS

try:
    import resource
except ImportError:  # Windows limits nothing of this: tasks that need it are refused there
    resource = None  # type: ignore[assignment]

MEMORY = 256 * 2**20
"""Bytes that grading may take beyond what the loaded task has."""
OPEN_FILES = 256
NEEDED = ("network", "files", "memory")
"""What must hold where a scorer evaluates text."""
MEANS = {
    "network": "no network",
    "files": "no file written",
    "memory": f"{MEMORY >> 20} MiB",
    "processes": "no new process",
    "environment": "no other process's environment",
}
"""What is confined, and how that is said."""
_KEPT = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV")
_KEPT_PREFIXES = ("LC_", "OMP_", "MKL_", "OPENBLAS_")


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries need to work; tokens, keys and addresses are none of them."""
    return {name: value for name, value in given.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}


def shut(walls: Sequence[str]) -> None:
    """Raise these `WALLS`, as far as the system has them, and limit files, processes and dumps.

    In the process's one thread, before any other is started: only later ones are within.
    """
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_NOFILE", OPEN_FILES)
    raised: set[str] = set()
    for name in (name for name in WALLS if name in walls):
        if name == "namespaces" and "landlock" in raised:
            continue  # for want of it only: in a namespace root may no longer read what is not its own
        with suppress(OSError):
            WALLS[name]()
            raised.add(name)
    if "seccomp" not in raised:
        limit("RLIMIT_NPROC", 0)  # counts threads too, and does not hold for root
    if not raised & {"landlock", "namespaces"}:
        limit("RLIMIT_FSIZE", 0)


def bound() -> None:
    """Limit memory to what there is and `MEMORY` more; where it cannot be read, there is no limit."""
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        limit("RLIMIT_AS", pages * mmap.PAGESIZE + MEMORY)


def renew_time(seconds: float) -> None:
    """Let the process use a sample's time on every core from now on: it ends even if nobody is left to end it."""
    if resource is None:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(used + seconds * (os.cpu_count() or 1)) + 1
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def limit(name: str, value: int) -> None:
    """Set a limit of the process, soft and hard, where the system has it."""
    number = getattr(resource, name, None)
    if resource is not None and number is not None:
        with suppress(OSError, ValueError):
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (value, value) if hard < 0 else (min(value, hard),) * 2)


def confinement(parent: int, folders: Sequence[str]) -> dict[str, bool]:
    """What this process cannot do, by trying: a key of `MEANS` → whether it holds.

    Args:
        parent: the process whose environment must not be readable.
        folders: those in which a file is tried to be made, if they are there.
    """
    return {
        "network": not any(map(_opens, (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))) and not _pairs(),
        "files": not any(map(_writes, filter(os.path.isdir, folders))),
        "memory": not _takes(MEMORY + 2**20),
        "processes": not _forks(),
        "environment": not _reads(f"/proc/{parent}/environ"),
    }


def _opens(family: int) -> bool:
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _pairs() -> bool:
    """Whether it has sockets for datagrams by way of a pair, of which each can send to any other of the machine."""
    try:
        for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
            each.close()
    except (OSError, AttributeError):  # Windows has no such pairs
        return False
    return True


def _writes(folder: str) -> bool:
    path = os.path.join(folder, f".lowregret-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except OSError:
        return False
    os.close(descriptor)
    os.unlink(path)
    return True


def _takes(size: int) -> bool:
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True


def _forks() -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # of threads, by Python 3.12
            child = os.fork()
    except OSError:
        return False
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True


def _reads(file: str) -> bool:
    """Whether it can be read; without a /proc, others tell of a process of the same user."""
    try:
        with open(file, "rb") as found:
            found.read(1)
    except PermissionError:
        return False
    except OSError:
        return True
    return True
