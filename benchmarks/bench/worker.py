"""The child's side: `python -m benchmarks.bench.worker MODULE:FUNCTION SETTINGS` runs one contender.

The contender loads, says it is ready, and answers requests, one JSON line each way, until there is none left.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowregret.strict_json import to_json

PACKAGE = "benchmarks.bench"


class Channel:
    """A contender's line to the runner."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print goes to the log, and never between the answers
        self._requests = os.fdopen(os.dup(0), encoding="utf-8")

    def ready(self, **facts: Any) -> None:
        """Loading is over: note the memory it left, and let the peak start from there."""
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        _forget_peak()
        self._send({**facts, "loaded_bytes": memory("VmRSS")})

    def wait(self) -> dict[str, Any] | None:
        """The next request; None when there will be no more."""
        line = self._requests.readline()
        request: dict[str, Any] | None = json.loads(line) if line.strip() else None
        return request

    def answer(self, **measured: Any) -> None:
        """What came of the last request; the peak of memory is added."""
        self._send({**measured, "peak_bytes": memory("VmHWM")})

    def _send(self, message: Mapping[str, Any]) -> None:
        self._answers.write(to_json(message) + "\n")
        self._answers.flush()


def memory(field: str) -> int:
    """A size in bytes out of /proc/self/status: VmRSS is resident now, VmHWM was at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peaks of memory are measured on Linux only.")


def clock() -> float:
    """Seconds, for differences."""
    return time.perf_counter()


def _forget_peak() -> None:
    with suppress(OSError):  # where it is refused, the peak includes loading
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    channel = Channel()
    getattr(importlib.import_module(f"{PACKAGE}.{module}"), function)(channel, **json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
