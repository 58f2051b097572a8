"""Public models by name: the part of each one's config.json that its shapes depend on, with where it is from.

One JSON file for each maker, a list of entries:
    names       hub ids that share these shapes, the first of which is the entry's name, and short names without a `/`
    source      where the facts are from
    parameters  the total that the maker publishes, where it is exact (a check, not an input)
    like        the first name of an entry whose configuration is taken, changed by `config`
    config      as in config.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CatalogueEntry:
    """A model of the catalogue."""

    names: tuple[str, ...]
    """Hub ids first, then short names that are none."""
    source: str
    """Where the configuration is from."""
    config: Mapping[str, Any]
    parameters: int | None = None
    """The exact total that the maker publishes."""

    @property
    def name(self) -> str:
        """The hub id by which it is called."""
        return self.names[0]


@cache
def entries() -> tuple[CatalogueEntry, ...]:
    """All of them."""
    read = [item for file in sorted(Path(__file__).parent.glob("*.json")) for item in json.loads(file.read_bytes())]
    own = {item["names"][0]: item for item in read}

    def config(item: Mapping[str, Any]) -> dict[str, Any]:
        return {**(config(own[item["like"]]) if "like" in item else {}), **item.get("config", {})}

    return tuple(
        CatalogueEntry(tuple(item["names"]), item["source"], config(item), item.get("parameters")) for item in read
    )


def find_entry(name: str) -> CatalogueEntry | None:
    """The entry that `name` means: any case, with or without the organisation; None when there is none."""
    wanted = name.casefold()
    for entry in entries():
        for spelling in entry.names:
            known = spelling.casefold()
            if wanted in (known, known.rpartition("/")[2]):
                return entry
    return None
