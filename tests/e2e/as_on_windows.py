"""`python as_on_windows.py ARGUMENT …`: the command where what only POSIX has is not to be had.

Libraries have builds of their own for Windows: they are imported first, as they are.
"""

import builtins
import errno
import fcntl
import importlib
import os
import pkgutil
import signal
import sys
from types import ModuleType
from typing import Any

import datasets  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: F401

import lowregret

MODULES = ("fcntl", "grp", "pwd", "readline", "resource", "termios", "tty")
OF_OS = (
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fork", "geteuid", "getgid", "getloadavg",
    "getuid", "killpg", "pread", "pwrite", "sched_getaffinity", "setsid", "sysconf",
)  # fmt: skip
OF_SIGNAL = ("SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1", "SIGUSR2", "pthread_kill", "setitimer")

imported = builtins.__import__


def importing(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
    """`__import__`, for our own modules as Windows would have it."""
    if name in MODULES and str((globals or {}).get("__name__", "")).startswith("lowregret"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return imported(name, globals, *rest, **more)


class Msvcrt(ModuleType):
    """Its one function here, over a lock of POSIX."""

    LK_LOCK, LK_NBLCK = 1, 2

    def locking(self, descriptor: int, how: int, count: int) -> None:
        """From where the file stands."""
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if how == self.LK_LOCK else fcntl.LOCK_NB), count, at)
        except BlockingIOError:
            raise OSError(errno.EACCES, "locked") from None


def main() -> int:
    """Import every module, then run the command."""
    sys.modules["msvcrt"] = Msvcrt("msvcrt")
    builtins.__import__ = importing
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            delattr(module, name)
    for found in pkgutil.walk_packages(lowregret.__path__, "lowregret."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    from lowregret.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
