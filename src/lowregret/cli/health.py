"""What an installation is made of, and whether it works: the checks of `lowregret doctor`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from lowregret.environment import environment, versions
from lowregret.errors import LowregretError
from lowregret.folders import cache_folder, home
from lowregret.foreign_text import redacted
from lowregret.plan.resources.hardware import find_hardware, memory_bytes
from lowregret.quantities import byte_count
from lowregret.runs.portable import lock

State = Literal["ok", "note", "problem"]
"""`note`: nothing is wrong, and something that may be wanted is not there."""
_LEAST_DISK = 2 * 10**9
_LEAST_MEMORY = 2 * 2**30
_TELLING = (
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "LOWREGRET_CACHE", "XDG_CACHE_HOME", "NO_COLOR", "WORLD_SIZE",
)  # fmt: skip
"""Variables that change what happens, of which the value is told."""
_SECRET = ("HF_TOKEN", "LOWREGRET_API_KEY", "WANDB_API_KEY", "OPENAI_API_KEY")
"""Of these only whether they are set."""
_IMPORT_SECONDS = 300.0
_TORCH = """
import json, sys, torch
gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
product = torch.ones(64, 64) @ torch.ones(64, 64)
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "hip": getattr(torch.version, "hip", None),
    "threads": torch.get_num_threads(),
    "available": torch.cuda.is_available(),
    "gpus": [[gpu.name, gpu.total_memory, f"{gpu.major}.{gpu.minor}"] for gpu in gpus],
    "multiplies": bool((product == 64).all()),
}))
"""
"""In a process of its own: an installation that is broken may end it."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    remedy: str = ""
    """What to do about a problem, or to have what is not there."""


def examine() -> Iterator[Check]:
    """All checks, in order; none changes anything, and none uses the network."""
    yield from _versions()
    yield from _extras()
    yield from _torch()
    yield _bundled()
    yield _memory()
    yield from _folders()
    yield from _hub()
    yield from _variables()


def _versions() -> Iterator[Check]:
    found = environment()
    commit = f", commit {found['commit']}" if "commit" in found else ""
    yield Check("lowregret", "ok", f"{found['lowregret']}{commit}")
    too_old = sys.version_info < (3, 11)
    yield Check(
        "python",
        "problem" if too_old else "ok",
        str(found["python"]),
        "lowregret needs Python 3.11 or newer: make another environment." if too_old else "",
    )
    yield Check("system", "ok", f"{found['system']}, {found['processor']}, {found['cores']} cores")
    missing = [problem for name, least, extra in _required() if not extra and (problem := _lacking(name, least))]
    there = ", ".join(f"{name} {of}" for name, of in versions().items() if name not in ("lowregret", "torch"))
    yield Check(
        "packages",
        "problem" if missing else "ok",
        "; ".join(missing) if missing else there,
        "pip install --upgrade lowregret" if missing else "",
    )


def _required() -> Iterator[tuple[str, str, str]]:
    """(package, its least version, the extra that wants it or "") of what lowregret declares."""
    for line in requires("lowregret") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        least, extra = re.search(r">=\s*([\d.]+)", line), re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        if name is not None:
            yield name[0], least[1] if least else "0", extra[1] if extra else ""


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _lacking(name: str, least: str) -> str:
    """What is wrong with a package; empty when nothing is."""
    there = _installed(name)
    if not there:
        return f"{name} is not installed"
    return "" if _numbers(there) >= _numbers(least) else f"{name} {there} is older than {least}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


def _extras() -> Iterator[Check]:
    wanted: dict[str, list[str]] = {}
    for name, least, extra in _required():
        if extra and extra != "dev":
            wanted.setdefault(extra, []).extend(filter(None, [_lacking(name, least)]))
    for extra, missing in wanted.items():
        remedy = f"pip install 'lowregret[{extra}]'" if missing else ""
        yield Check(f"extra {extra}", "note" if missing else "ok", "; ".join(missing) or "installed", remedy)


def _torch() -> Iterator[Check]:
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _TORCH], capture_output=True, text=True, check=False, timeout=_IMPORT_SECONDS
        )
        found = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else None
        said = (ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        found, said = None, str(error)
    if found is None:
        yield Check("torch", "problem", f"cannot be imported: {said}", "pip install --force-reinstall torch")
        return
    build = f"CUDA {found['cuda']}" if found["cuda"] else f"ROCm {found['hip']}" if found["hip"] else "CPU only"
    good = found["multiplies"]
    yield Check(
        "torch",
        "ok" if good else "problem",
        f"{found['version']} ({build}), {found['threads']} threads" + ("" if good else "; it multiplies wrongly"),
        "" if good else "pip install --force-reinstall torch",
    )
    yield from _gpus(found["gpus"], bool(found["cuda"] or found["hip"]))


def _gpus(gpus: Sequence[tuple[str, int, str]], built: bool) -> Iterator[Check]:
    for index, (name, total, capability) in enumerate(gpus):
        try:
            known = f"known to the plan as {find_hardware(name).name}"
        except LowregretError:
            known = "not known to the plan: its times are told once the first steps are timed"
        yield Check(f"gpu {index}", "ok", f"{name}, {byte_count(total)}, compute capability {capability}; {known}")
    if gpus:
        return
    driver = shutil.which("nvidia-smi") is not None
    if driver and not built:
        yield Check(
            "gpu", "problem", "there is an NVIDIA driver, and torch is built for CPUs only",
            "Install torch from the CUDA index that pytorch.org names for this driver.",
        )  # fmt: skip
    elif driver:
        yield Check(
            "gpu", "problem", "torch is built for CUDA and sees no GPU",
            "See that `nvidia-smi` lists one, that its driver is as new as torch's CUDA, and CUDA_VISIBLE_DEVICES.",
        )  # fmt: skip
    else:
        yield Check("gpu", "note", "none: training runs on the CPU")


def _bundled() -> Check:
    from lowregret.models.files import bundled_names, folder_of

    broken = [name for name in bundled_names() if not _has_weights(folder_of(name))]
    return Check(
        "bundled bases",
        "problem" if broken else "ok",
        f"{', '.join(broken)}: without weights" if broken else ", ".join(bundled_names()),
        "pip install --force-reinstall --no-deps lowregret" if broken else "",
    )


def _has_weights(folder: Path | None) -> bool:
    return folder is not None and any(file.stat().st_size for file in folder.glob("*.safetensors"))


def _memory() -> Check:
    total = memory_bytes()
    small = total < _LEAST_MEMORY
    return Check(
        "memory",
        "problem" if small else "ok",
        byte_count(total),
        "Even small bases need 2 GB: use a larger machine." if small else "",
    )


def _folders() -> Iterator[Check]:
    for name, folder, remedy in (
        ("working folder", Path.cwd(), "Change to a folder of yours, or name one with --out."),
        ("cache", cache_folder(), "LOWREGRET_CACHE names another folder."),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR names another folder."),
    ):
        yield _folder(name, folder, remedy)


def _folder(name: str, folder: Path, remedy: str) -> Check:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free
    here = f"{_short(folder)}, {byte_count(free)} free"
    for what, works in (("cannot be written", _writes), ("files there cannot be locked", _locks)):
        try:
            works(place)
        except OSError as error:
            return Check(name, "problem", f"{here}; {what}: {error.strerror or error}", remedy)
    if free < _LEAST_DISK:
        return Check(name, "problem", here, f"Make room: {byte_count(_LEAST_DISK)} and more are needed. {remedy}")
    return Check(name, "ok", here)


def _writes(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"lowregret")
        file.flush()
        os.fsync(file.fileno())


def _locks(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        lock(file.fileno())


def _hub() -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    yield _folder("Hugging Face cache", Path(constants.HF_HUB_CACHE), "HF_HOME names another folder.")
    offline = constants.HF_HUB_OFFLINE
    yield Check(
        "Hugging Face hub",
        "note" if offline else "ok",
        f"{'offline' if offline else 'asked for what is not in the cache'}; token {_set(get_token)}",
        "Unset HF_HUB_OFFLINE to fetch bases and data." if offline else "",
    )


def _set(secret: Callable[[], str | None]) -> str:
    return "set" if secret() else "not set"


def _variables() -> Iterator[Check]:
    told = [f"{name}={redacted(_short(os.environ[name]))}" for name in _TELLING if os.environ.get(name)]
    told += [f"{name} set" for name in _SECRET if os.environ.get(name)]
    yield Check("variables", "ok", ", ".join(told) or "none that matter")
    out = sys.stdout
    encoding = (out.encoding or "unknown").lower()
    wide = shutil.get_terminal_size().columns
    fits = encoding.replace("-", "") == "utf8"
    yield Check(
        "terminal",
        "ok" if fits else "note",
        f"{'a terminal' if out.isatty() else 'a pipe'}, {wide} columns, {encoding}",
        "" if fits else "PYTHONUTF8=1 prints all letters.",
    )


def _short(path: object) -> str:
    """Without the user's name, where it is below the home folder."""
    text, own = str(path), str(home())
    return f"~{text[len(own) :]}" if text == own or text.startswith(own + os.sep) else text
