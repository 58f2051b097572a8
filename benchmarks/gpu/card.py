"""The device that is measured: its clock, its peak of memory, and how often the host waits for it."""

from __future__ import annotations

import gc
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from lowregret.errors import SpecError
from lowregret.plan.resources.hardware import Hardware, find_hardware

REHEARSED = "H100 SXM"
"""The device whose data sheet a rehearsal takes."""
_WAITED = "synchronizing CUDA operation"


@dataclass
class Waits:
    """How often the host waited for the device."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    """Where, as `file:line`."""


@dataclass(frozen=True)
class Card:
    """A GPU; or this CPU, on which everything runs but memory and waits are not counted."""

    device: torch.device

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """As its driver has it."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else f"{platform.machine()} CPU, a rehearsal"

    @property
    def hardware(self) -> Hardware:
        """What the plan's catalogue knows of it; SpecError where that is nothing."""
        return find_hardware(self.name if self.is_gpu else REHEARSED)

    @property
    def known(self) -> bool:
        """Whether the catalogue knows it."""
        try:
            return bool(self.hardware)
        except SpecError:
            return False

    def clock(self) -> float:
        """Seconds, once all work is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def forget(self) -> None:
        """Let go of all that nobody holds, and let the peak begin anew."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak_bytes(self) -> int | None:
        """Of all tensors, since `forget`."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_gpu else None

    @property
    def reserved_bytes(self) -> int | None:
        """What the allocator held for them at the most."""
        return torch.cuda.max_memory_reserved(self.device) if self.is_gpu else None

    @property
    def context_bytes(self) -> int | None:
        """What is taken beside that, when nothing else runs on it."""
        if not self.is_gpu:
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free - torch.cuda.memory_reserved(self.device)

    @contextmanager
    def waits(self) -> Iterator[Waits]:
        """Count the waits inside."""
        found = Waits()
        if not self.is_gpu:
            yield found
            return
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(before)
        places = [f"{each.filename}:{each.lineno}" for each in seen if _WAITED in str(each.message)]
        found.count, found.places = len(places), places
