"""Files and libraries of others: a file is opened only if it is one, and whatever is raised becomes a named error.

The one place where every exception is caught. A library that reads a damaged file raises what it likes: those of its
own kind, TypeError, KeyError, a panic of Rust (which is no Exception), MemoryError, RecursionError.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from lowregret.errors import DataError, LowregretError
from lowregret.limits import JSON_BYTES, Limit
from lowregret.strict_json import to_json

Kind = type[LowregretError]
_LONGEST_REASON = 300
_MOMENT = 0.05
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@contextmanager
def boundary(kind: Kind, place: object, what: str, remedy: str) -> Iterator[None]:
    """Around a library's work on a file: what it raises becomes `kind`, as "PLACE: WHAT (reason). REMEDY".

    Errors that are named already and interrupts pass.
    """
    try:
        yield
    except (LowregretError, KeyboardInterrupt, InterruptedError, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise named(kind, place, f"{what} ({reason(error)}). {remedy}") from error


def real_path(path: Path) -> Path:
    """A path without links. Of one that leads in a circle it is what is left, where pathlib raises RuntimeError."""
    return Path(os.path.realpath(path))


def named(kind: Kind, place: object, message: str) -> LowregretError:
    """An error of this kind that begins with the place."""
    if kind is DataError:
        return DataError(message, source=str(place))
    return kind(f"{place}: {message}")


def reason(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
    said = f"{type(error).__name__}: {first}" if isinstance(error, KeyError) or len(first) < 4 else first
    return said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]}…"


def require_file(path: str | Path, kind: Kind, most: Limit | int | None = None) -> None:
    """`kind` when what is there is no regular file (a folder, a pipe, a device, a socket), or is larger than `most`
    bytes. A path at which nothing is passes: whoever opens it says so."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise named(kind, path, f"cannot be read ({error.strerror}).") from None
    if not stat.S_ISREG(found.st_mode):
        what = f"is {_what(found.st_mode)}, and a file is needed. Copy its content to a file and name that."
        raise named(kind, path, what)
    limit = most.value if isinstance(most, Limit) else most
    if limit is not None and found.st_size > limit:
        remedy = most.raised if isinstance(most, Limit) else "Give the file that was meant"
        raise named(kind, path, f"has {found.st_size:,} bytes, and at most {limit:,} are read. {remedy}.")


def _what(mode: int) -> str:
    for tells, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if tells(mode):
            return name
    return "no file"


def open_file(path: str | Path, kind: Kind) -> BufferedReader:
    """A regular file, open to be read; a pipe is not waited for. Raises OSError, or `kind` as `require_file` does."""
    require_file(path, kind)
    return open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)), "rb")


def read_bytes(path: str | Path, kind: Kind, remedy: str, most: Limit | int = JSON_BYTES) -> bytes:
    """The content of a file of at most so many bytes. FileNotFoundError passes; all else is `kind`."""
    require_file(path, kind, most)
    try:
        with open_file(path, kind) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise named(kind, path, f"cannot be read ({error.strerror or error}). {remedy}") from None


def read_text(path: str | Path, kind: Kind, remedy: str, most: Limit | int = JSON_BYTES) -> str:
    """The same as UTF-8."""
    try:
        return read_bytes(path, kind, remedy, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise named(kind, path, f"is no UTF-8 text ({error.reason} at byte {error.start}). {remedy}") from None


def read_json(path: str | Path, kind: Kind, remedy: str, *, finite: bool = True) -> Any:
    """The value of a JSON file; `kind` that names the file and says the remedy, FileNotFoundError when there is none.

    Refused are a key that stands twice in an object, for readers differ in which of the two counts, and with `finite`
    numbers that JSON has no spelling for. Those of models need them: a Mamba 2's `time_step_limit` ends in Infinity.
    """
    return parse_json(read_bytes(path, kind, remedy), path, kind, remedy, finite=finite)


def parse_json(text: bytes, place: object, kind: Kind, remedy: str, *, finite: bool = True) -> Any:
    """`read_json` of bytes that are there."""
    options: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _number} if finite else {}
    try:
        value = json.loads(text, object_pairs_hook=_once, **options)
        if _SURROGATE.search(text):  # what no file and no page can be written with
            to_json(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError, MemoryError) as error:
        said = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else reason(error)
        raise named(kind, place, f"damaged, or no JSON ({said}). {remedy}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:40]!r} stands twice")
    return found


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _no_number(text)
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text[:20]} is no number of JSON")


class TooMuch(BaseException):
    """What `bounded` ends a program with; no Exception, after which some go on, as Jinja's compiler does."""


@contextmanager
def bounded(seconds: float, bytes: int) -> Iterator[None]:
    """Around a program by somebody else (a template, a pattern): TooMuch after so many seconds of time, MemoryError
    for so many bytes of new memory.

    By a timer's signal, which only the main thread gets, and the process's own limit of memory, which only Linux
    keeps: elsewhere it lets everything through.
    """
    timed = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not timed:
        yield
        return

    def end(number: int, frame: object) -> None:
        raise TooMuch(f"it takes more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, end)
    restore = _hold_memory(bytes)
    other = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *other)  # one that somebody else has set goes on
        restore()
        signal.signal(signal.SIGALRM, before)


def _hold_memory(more: int) -> Any:
    """Let the process have so many bytes more than it has; what undoes it."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    import resource

    now = _held(os.getpid(), int(time.monotonic() / _MOMENT))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = now + more
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, before)


@lru_cache(maxsize=1)
def _held(process: int, moment: int) -> int:
    """Bytes of private memory of this process; asked once in a moment, for it takes longer than a short chat does."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
