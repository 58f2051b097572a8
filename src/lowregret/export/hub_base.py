"""A base as the hub knows it: its name there, and the licence that it states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from lowregret import limits
from lowregret.errors import ModelError, SpecError
from lowregret.folders import expanded
from lowregret.foreign import boundary, read_json, read_text, real_path
from lowregret.foreign_text import last_part
from lowregret.models.files import folder_of, is_bundled
from lowregret.models.gguf.header import read_header

CARD = "README.md"
"""What the hub reads a model's card from."""
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Licence:
    """What a base says of its licence."""

    names: tuple[str, ...]
    """As the hub spells them (hf.co/docs/hub/repositories-licenses), such as `apache-2.0`, or `other`."""
    title: str | None = None
    """Of `other`: what it is called."""
    link: str | None = None
    """Of `other`: where it stands, an https address."""


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form ORG/NAME, as the hub allows it."""
    if name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def require_hub_id(name: str, flag: str) -> str:
    """The name; SpecError when it is none of a repository."""
    if not is_hub_id(name):
        raise SpecError(
            f"{flag} {name!r}: is no name of a repository. Give ORG/NAME: letters, digits, `-`, `_` and `.`, at most "
            "96 characters, no `--` and no `..`."
        )
    return name


def base_on_hub(model: str) -> str | None:
    """The name that a base has on the hub, by what `--model` names; None where that cannot be told.

    A hub id is its own. A folder or a file in the hub's cache has its repository's. Another folder has the
    `_name_or_path` of its config.json if that is a hub id whose last part is the folder's own name: of a model that was
    trained further the field names what it was made from. Bundled bases are not on the hub.
    """
    path = expanded(model)
    if not path.exists():
        # What looks like an id may be a relative path that was meant from another folder.
        return model if is_hub_id(model) and not path.parent.exists() else None
    if cached := _CACHED.search(str(path.absolute())) or _CACHED.search(str(real_path(path))):
        return f"{cached[1]}/{cached[2]}"
    if not path.is_dir():
        return None
    try:
        named = read_json(path / "config.json", ModelError, "", finite=False).get("_name_or_path")
    except (FileNotFoundError, ModelError, AttributeError):
        return None
    if isinstance(named, str) and is_hub_id(named) and named.rpartition("/")[2].lower() == real_path(path).name.lower():
        return named
    return None


def base_label(model: str) -> str:
    """What to call a base where it has no name on the hub: the last part of its path, or its bundled name."""
    return last_part(model) or "base"


def base_licence(model: str) -> Licence | None:
    """The licence that a base states, in the metadata of its card or its .gguf file; None where it states none, or its
    card cannot be read."""
    try:
        if model.endswith(".gguf"):
            stated = read_header(Path(model), model).parts[0].metadata
            return _licence(stated.get("general.license"), stated.get("general.license.name"),
                            stated.get("general.license.link"), None)  # fmt: skip
        folder = None if is_bundled(model) else folder_of(model)
        if folder is None:
            return None
        said = read_text(folder / CARD, ModelError, "", limits.TEMPLATE_BYTES)
        with boundary(ModelError, folder / CARD, "cannot be read", ""):
            data = ModelCard(said, ignore_metadata_errors=True).data
    except (FileNotFoundError, ModelError):
        return None
    return _licence(data.get("license"), data.get("license_name"), data.get("license_link"), base_on_hub(model))


def _licence(names: Any, title: Any, link: Any, base: str | None) -> Licence | None:
    listed = names if isinstance(names, list) else [names]
    found = tuple(name for name in listed if isinstance(name, str) and _LICENCE.fullmatch(name))
    if not found or len(found) < len(listed):
        return None
    address = link if isinstance(link, str) else None
    if address is not None and base is not None and re.fullmatch(r"[\w.-]+", address):
        address = f"https://huggingface.co/{base}/blob/main/{address}"
    whole = address if address is not None and re.fullmatch(r"https://[\w./%~-]+", address) else None
    return Licence(found, title if isinstance(title, str) and _LICENCE.fullmatch(title) else None, whole)
