"""Which model a name means, and its shapes: a folder, a .gguf file, a bundled base, the hub cache or the catalogue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.foreign import require_file
from lowregret.models.folder import read_config
from lowregret.models.quantised import refuse_quantised
from lowregret.plan.shapes.catalogue.entries import CatalogueEntry, entries, find_entry
from lowregret.plan.shapes.gguf_header import read_gguf
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.weights import Shapes

_BUNDLED = Path(__file__).parents[2] / "models" / "bundled"


def find_model(name: str) -> Shapes:
    """The shapes of the model that `name` means, without loading a weight or touching the network.

    In this order: a folder with a config.json, a .gguf file, a bundled base (`tiny`), a hub id in the local cache, the
    catalogue (any case, with or without the organisation). ModelError: none of them, with the nearest names; or a
    configuration that cannot be read, or lacks a key, which is named.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        require_file(path, ModelError)
        if not path.exists():
            raise ModelError(f"{name}: no such file. Give the path of an existing .gguf file.")
        return read_gguf(path, name)
    if path.is_dir():
        return shapes_of(_read_config(path, name), name, (f"Shapes from {path / 'config.json'}.",))
    if path.exists():
        raise ModelError(f"{name}: is a file. Give a folder, a .gguf file, a hub id or the name of a known model.")
    if name in bundled_names():
        return shapes_of(_read_config(_BUNDLED / name, name), name, ("A base that comes with lowregret.",))
    cached = _cached(name)
    if cached is not None:
        return shapes_of(_read_config(cached, name), name, ("Shapes from the config.json in the hub's cache.",))
    entry = find_entry(name)
    if entry is not None:
        return from_catalogue(entry)
    raise ModelError(_unknown(name))


def from_catalogue(entry: CatalogueEntry) -> Shapes:
    """The shapes of a model of the catalogue."""
    return shapes_of(entry.config, entry.name, (f"Shapes from the catalogue: {entry.source}.",))


def folder_of(name: str) -> Path | None:
    """The folder on this machine that `name` means, where its tokenizer lies too; None when there is none."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in bundled_names():
        return _BUNDLED / name
    return _cached(name)


def bundled_names() -> list[str]:
    """The bases that come with the package."""
    return sorted(config.parent.name for config in _BUNDLED.glob("*/config.json"))


def _read_config(folder: Path, name: str) -> Mapping[str, Any]:
    values = read_config(folder, name)
    refuse_quantised(values, name, folder)
    return values


def _cached(name: str) -> Path | None:
    """The folder of the newest snapshot of a hub id in the local cache, if its config.json is there."""
    if name.count("/") != 1:
        return None
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    repository = cache.expanduser() / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / "main"
    if reference.is_file():
        snapshot = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if (snapshot / "config.json").is_file():
            return snapshot
    configs = sorted(repository.glob("snapshots/*/config.json"), key=lambda file: file.stat().st_mtime)
    return configs[-1].parent if configs else None


def _unknown(name: str) -> str:
    known = {spelling.casefold(): spelling for entry in entries() for spelling in entry.names}
    known |= {spelling.rpartition("/")[2].casefold(): spelling for spelling in known.values()}
    known |= {bundled: bundled for bundled in bundled_names()}
    near = dict.fromkeys(known[match] for match in get_close_matches(name.casefold(), known, n=5, cutoff=0.5))
    hint = f"Did you mean {', '.join(list(near)[:3])}? " if near else ""
    return (
        f"{name}: is no folder, no .gguf file, no bundled base ({', '.join(bundled_names())}), not in the hub's cache "
        f"and none of the {len(entries())} models of the catalogue. {hint}Otherwise give a folder with its config.json."
    )
