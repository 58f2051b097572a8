"""Which model a name means, and its shapes: a folder, a .gguf file, a bundled base, the hub cache or the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.folders import expanded
from lowregret.foreign import require_file
from lowregret.models.files import BUNDLED, bundled_names, cached_snapshot, is_bundled
from lowregret.models.folder import read_config
from lowregret.models.quantised import refuse_quantised
from lowregret.plan.shapes.catalogue.entries import CatalogueEntry, entries, find_entry
from lowregret.plan.shapes.gguf_header import read_gguf
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.weights import Shapes


def find_model(name: str) -> Shapes:
    """The shapes of the model that `name` means, without loading a weight or touching the network.

    In this order: a folder with a config.json, a .gguf file, a bundled base (`tiny`), a hub id in the local cache, the
    catalogue (any case, with or without the organisation). ModelError: none of them, with the nearest names; or a
    configuration that cannot be read, or lacks a key, which is named.
    """
    path = expanded(name)
    if path.suffix == ".gguf":
        require_file(path, ModelError)
        if not path.exists():
            raise ModelError(f"{name}: no such file. Give the path of an existing .gguf file.")
        return read_gguf(path, name)
    if is_bundled(name):
        return shapes_of(_read_config(BUNDLED / name, name), name, ("A base that comes with lowregret.",))
    if path.is_dir():
        return shapes_of(_read_config(path, name), name, (f"Shapes from {path / 'config.json'}.",))
    if path.exists():
        raise ModelError(f"{name}: is a file. Give a folder, a .gguf file, a hub id or the name of a known model.")
    cached = cached_snapshot(name)
    if cached is not None:
        return shapes_of(_read_config(cached, name), name, ("Shapes from the config.json in the hub's cache.",))
    entry = find_entry(name)
    if entry is not None:
        return from_catalogue(entry, entry.called(name))
    raise ModelError(_unknown(name))


def from_catalogue(entry: CatalogueEntry, name: str | None = None) -> Shapes:
    """The shapes of a model of the catalogue, by the name of it that is asked for."""
    return shapes_of(entry.config, name or entry.name, (f"Shapes from the catalogue: {entry.source}.",))


def _read_config(folder: Path, name: str) -> Mapping[str, Any]:
    values = read_config(folder, name)
    refuse_quantised(values, name, folder)
    return values


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
