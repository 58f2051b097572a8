"""What set-up installs, by constraints.txt, pyproject.toml and the metadata of what is installed here."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
GPU_LIBRARIES = ("nvidia-", "cuda-", "triton")
"""On Linux torch brings GPU libraries, or none, by the build that was chosen; its own metadata fixes their versions."""


def pins() -> dict[str, str]:
    """Package, as constraints.txt spells it, → version."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def declared(*extras: str) -> list[str]:
    """The requirements of pyproject.toml, with those of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(text for name in extras for text in project["optional-dependencies"][name])]


def closure(*extras: str) -> set[str]:
    """The names of all packages that set-up installs for pyproject.toml and these extras, GPU libraries left out."""
    names: set[str] = set()
    seen: set[str] = set()
    for text in declared(*extras):
        names.add(canonicalize_name(Requirement(text).name))
        names.update(_required(text, seen))
    return {name for name in names if not name.startswith(GPU_LIBRARIES)}


def _required(requirement: str, seen: set[str]) -> Iterator[str]:
    """The installed packages that a requirement brings, through all levels."""
    wanted = Requirement(requirement)
    name = canonicalize_name(wanted.name)
    key = f"{name}[{','.join(sorted(wanted.extras))}]"
    if key in seen:
        return
    seen.add(key)
    try:
        below = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield name
    for text in below:
        marker = Requirement(text).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            yield from _required(text, seen)


def licence(name: str) -> str:
    """What an installed package says that its licence is, on one line; empty when it says nothing."""
    found = importlib.metadata.metadata(name)
    classified = [
        text.rpartition(" :: ")[2] for text in found.get_all("Classifier") or () if text.startswith("License")
    ]
    stated = (found.get("License") or "").strip()
    short = stated if 0 < len(stated) < 60 and "\n" not in stated and stated != "UNKNOWN" else ""
    named = [text for text in classified if text != "OSI Approved"]
    return found.get("License-Expression") or (" and ".join(named) if named else short)
