"""Where a result was obtained: versions, machine, commit. Torch-free; the trainer adds what only torch knows."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lowregret.version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "bitsandbytes",
    "math-verify",
    "reasoning-gym",
)
"""That numbers depend on."""


def versions() -> dict[str, str]:
    """Of lowregret and of `PACKAGES`, where they are installed."""
    found = {"lowregret": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def environment() -> dict[str, str | int]:
    """Python, packages, operating system, processor, cores, and lowregret's commit when it runs from a checkout."""
    found: dict[str, str | int] = {
        "lowregret": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
    }
    found |= versions()
    if commit := _commit():
        found["commit"] = commit
    return found


@cache
def cpu_vendor() -> str:
    """Who made the processor, as it calls itself: GenuineIntel, AuthenticAMD; empty where that is not known."""
    return _of_processor("vendor_id") or ""


def _processor() -> str:
    return _of_processor("model name") or platform.processor() or "unknown"


def _of_processor(field: str) -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return None


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` when tracked files differ from it; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
        state = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()[:12] + ("-dirty" if state.stdout.strip() else "")
