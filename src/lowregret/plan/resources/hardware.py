"""Devices: how much memory, how fast, at what price. Torch-free; `auto` measures this machine in another process."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lowregret.errors import LowregretError, SpecError, did_you_mean
from lowregret.folders import user_cache
from lowregret.strict_json import to_json

CATALOGUE = Path(__file__).with_name("hardware.json")
GPU_UTILISATION = 0.4
"""Of the matrix products' peak that a training step reaches on a GPU. Assumed: 0.3 to 0.55 is what well-made trainers
report for dense models of a billion parameters and more; small models reach less."""
PROBE_VERSION = 2
"""Counted up when the probe measures in another way, so that kept answers of older ones are not read."""
KERNEL_SECONDS = 5e-6
"""To launch one kernel on a GPU: what a small model's step is made of. Assumed."""
NODE = 8
"""Devices of a node. Assumed: it is what servers of all makers hold."""
NETWORK = 100e9 / 8 / NODE
"""Bytes a second of a device to other nodes, where the catalogue knows no network; and between CPUs, which are taken to
be machines of their own. Assumed."""


@dataclass(frozen=True)
class Hardware:
    """One device."""

    name: str
    kind: Literal["cpu", "gpu"]
    memory_bytes: int
    flops_per_second: float
    """Of dense matrix products in the type that training uses: bfloat16 (float16 where there is none) on a GPU, float32
    on a CPU. A GPU's is its maker's figure; a CPU's is measured."""
    bytes_per_second: float
    """To and from memory."""
    utilisation: float
    """Share of `flops_per_second` that the products of a step reach."""
    call_seconds: float
    """For one small operation, all told."""
    price_per_hour: float | None
    """Dollars; None where the catalogue knows none."""
    source: str
    link_bytes_per_second: float = NETWORK
    """To the other devices of its node, in one direction."""
    network_bytes_per_second: float = NETWORK
    """To those of other nodes."""
    node: int = NODE
    """Devices of a node."""


@lru_cache(maxsize=1)
def catalogue() -> tuple[Hardware, ...]:
    """The GPUs that are known by name, least memory first, then least speed."""
    document = _document()
    found = [
        Hardware(
            name=entry["name"],
            kind="gpu",
            memory_bytes=entry["memory_gb"] * 2**30,
            flops_per_second=entry["tflops"] * 1e12,
            bytes_per_second=entry["gb_per_second"] * 1e9,
            utilisation=entry.get("utilisation", GPU_UTILISATION),
            call_seconds=entry.get("call_seconds", KERNEL_SECONDS),
            price_per_hour=entry.get("price"),
            source=_sources(document, entry),
            link_bytes_per_second=entry["link"] * 1e9,
            network_bytes_per_second=entry["network"] * 1e9 if "network" in entry else NETWORK,
        )
        for entry in document["gpus"]
    ]
    return tuple(sorted(found, key=lambda device: (device.memory_bytes, device.flops_per_second)))


def _document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=1)
def _reported() -> dict[str, str]:
    """The plain names of devices as torch.cuda.get_device_name gives them, each with its own in the catalogue."""
    return {_plain(name): _plain(entry["name"]) for entry in _document()["gpus"] for name in entry["reported"]}


def _sources(document: dict[str, Any], entry: dict[str, Any]) -> str:
    """Where a device's figures come from."""
    measured = ["utilisation and time of a call: measured by benchmarks.gpu"] * ("utilisation" in entry)
    parts = [
        document["source"],
        *measured,
        f"link: {document['link_source']}",
        f"network: {document['network_source']}",
    ]
    return "; ".join(parts + [f"price: {document['price_source']}"] * ("price" in entry))


def find_hardware(name: str) -> Hardware:
    """A device of the catalogue, by any spelling: `h100` is the fastest of that name; or by what its driver calls it.

    `auto` is this machine's CPU, measured once. SpecError for a name that means none of them.
    """
    if name.lower() in ("auto", "cpu"):
        return this_cpu()
    wanted = _reported().get(_plain(name), _plain(name))
    names = {_plain(device.name): device for device in catalogue()}
    if wanted in names:
        return names[wanted]
    holding = [device for key, device in names.items() if all(part in key for part in _parts(name))]
    if len(holding) == 1:
        return holding[0]
    # `H100` alone is an answer: the fastest of those that bear the name; the plan prints which.
    whole = [device for device in holding if set(_parts(name)) <= set(_parts(device.name))]
    if whole and any(character.isdigit() for character in name):
        return max(whole, key=lambda device: (device.flops_per_second, device.memory_bytes))
    known = [device.name for device in catalogue()]
    if holding:
        raise SpecError(f"--hardware {name!r} may mean {', '.join(device.name for device in holding)}: name one.")
    parts = {part: device.name for device in catalogue() for part in (*_parts(device.name), _plain(device.name))}
    near = get_close_matches(wanted, parts, n=1)
    hint = f"Did you mean {parts[near[0]]!r}? " if near else ""
    raise SpecError(f"unknown hardware {name!r}. {hint}{did_you_mean('', [*known, 'auto'])}")


def kept_cpu() -> Hardware | None:
    """This machine's CPU as an earlier probe of it found it; None where there was none."""
    try:
        return Hardware(**json.loads(_kept_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def probed_cpu(found: Mapping[str, Any]) -> Hardware:
    """This machine's CPU, of what the probe has found."""
    return replace(Hardware(**found), memory_bytes=memory_bytes())


def this_cpu() -> Hardware:
    """This machine's CPU as torch uses it, from a probe in a process of its own (torch must not be loaded here).

    The probe takes some seconds, and its numbers are kept in the user's cache for the next time.
    """
    kept = kept_cpu()
    if kept is not None:
        return kept
    file = _kept_file()
    probe = subprocess.run(
        [sys.executable, "-m", "lowregret.engine.probe"], capture_output=True, text=True, check=False, timeout=300
    )
    if probe.returncode:
        raise LowregretError(f"--hardware auto: the probe of this machine failed: {probe.stderr.strip()[-300:]}")
    device = probed_cpu(json.loads(probe.stdout))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}")
        beside.write_text(to_json(device.__dict__), encoding="utf-8")
        beside.replace(file)
    except OSError:
        pass  # measured again next time
    return device


def memory_bytes() -> int:
    """What this machine has."""
    import psutil

    return int(psutil.virtual_memory().total)


def _cache_folder() -> Path:
    return user_cache() / "lowregret"


def _kept_file() -> Path:
    return _cache_folder() / f"cpu-{_cpu_key()}.json"


def _cpu_key() -> str:
    """Names the machine and what decides its speed: model, cores, threads, and the installed torch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    facts = (PROBE_VERSION, platform.node(), platform.machine(), cores, threads, version("torch"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum()).removeprefix("nvidia").removeprefix("amd")


def _parts(name: str) -> list[str]:
    return [_plain(part) for part in name.replace("-", " ").replace("_", " ").split() if _plain(part)]
