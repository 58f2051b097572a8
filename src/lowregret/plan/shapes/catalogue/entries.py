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

    def called(self, name: str) -> str | None:
        """The hub id that `name` means, in any case, with or without the organisation: of models of equal shapes the
        one that is named, or of a short name the first that begins with it, else the entry's own. None when it means
        none of them."""
        wanted, last = name.casefold(), {known: known.casefold().rpartition("/")[2] for known in self.names}
        if not any(wanted in (known.casefold(), part) for known, part in last.items()):
            return None
        ids = [known for known in self.names if "/" in known]
        exact = [known for known in ids if wanted in (known.casefold(), last[known])]
        return next(iter([*exact, *(known for known in ids if last[known].startswith(wanted)), self.name]))


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
    return next((entry for entry in entries() if entry.called(name) is not None), None)
