"""Peak memory of one trial, from its own start."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil
import torch


class PeakMemory:
    """On a GPU: bytes allocated at the peak. On a CPU: the process's peak resident set, base and libraries included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _forget_peak()

    def bytes(self) -> int:
        """The peak since construction."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset)
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    """Give freed memory back and restart Linux's high-water mark; elsewhere the peak is the process's own."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return
