"""No place of this machine stands in what is published. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lowregret.errors import RecordsError
from lowregret.folders import home
from lowregret.foreign import read_bytes

VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
"""Of a tokenizer: they hold words, and some are those of paths."""
_SCANNED = (".md", ".json", ".jinja", ".txt", ".html", "")
"""Endings of the files that are searched for places of this machine, but for the vocabularies among them."""
_AGAIN = "Bring it back as it was, or ship the model again."


def refuse_places(folder: Path, known: Iterable[str] = ()) -> None:
    """RecordsError when a small text file of a folder that is to be published holds the path of the home or the working
    folder, or one of the `known` ones."""
    own = {f"{place}/" for place in (home(), Path.cwd()) if place != Path("/")}
    places = sorted(own | {place for place in known if "/" in place.strip("/")})
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.suffix not in _SCANNED or file.name in VOCABULARY:
            continue
        said = read_bytes(file, RecordsError, _AGAIN).decode("utf-8", "replace")
        if (place := next((place for place in places if place in said), None)) is not None:
            raise RecordsError(f"{file}: names {place}, a place of this machine. Take it out before it is published.")
