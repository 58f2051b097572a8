"""A folder that the hub takes: the weights, the tokenizer and the settings, and nothing that tells of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.export.hub_base import base_label, base_on_hub, require_hub_id
from lowregret.export.places import VOCABULARY
from lowregret.foreign import boundary, read_json
from lowregret.foreign_text import without_paths
from lowregret.lora.formats.peft import WEIGHTS_NAME
from lowregret.models.files import TOKENIZER, folder_of
from lowregret.models.folder import weight_files
from lowregret.models.load import load_tokenizer, resolve
from lowregret.runs.atomic import write_bytes, write_json, writing
from lowregret.runs.files import ADAPTER_CONFIG, VERDICT
from lowregret.runs.verdict import Verdict
from lowregret.strict_json import finite, to_json

_GENERATION = "generation_config.json"
_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_AGAIN = "Bring it back as it was, or ship the model again."
_NAMES = ("_name_or_path", "name_or_path")
"""Fields in which transformers keeps where a model or tokenizer was loaded from."""
_PATTERNS = (
    "target_modules", "exclude_modules", "target_parameters", "modules_to_save", "layers_pattern", "rank_pattern",
    "alpha_pattern",
)  # fmt: skip
"""Fields of adapter_config.json that name modules, by patterns that may look like paths."""


def hub_folder(
    source: Path, folder: Path, *, base: str, base_name: str | None = None, verdict: Verdict | None = None
) -> str | None:
    """Fill an empty folder with what the hub takes of an adapter or a model.

    Returns a warning where the base's name on the hub is not known, else None.

    Args:
        source: an adapter in PEFT's format or a whole Hugging Face model; what else lies there (checkpoints, states of
            optimizers, records) stays where it is.
        folder: it is empty; give one of `atomic.replacing_folder`, so that nothing half-written has the final name.
        base: as `--model` names it; its tokenizer and settings are taken where the source has none.
        base_name: what the base is called on the hub, when `base_on_hub` cannot tell.
        verdict: becomes verdict.json, without paths.

    Raises ModelError for a source that is neither, or a base whose tokenizer cannot be read, SpecError for a
    `base_name` that is none, RecordsError when the folder cannot be written.
    """
    named = require_hub_id(base_name, "--base-name") if base_name else base_on_hub(base)
    if (source / ADAPTER_CONFIG).is_file():
        config = _object(source / ADAPTER_CONFIG)
        clean = {key: value if key in _PATTERNS else without_paths(value) for key, value in config.items()}
        write_json(folder / ADAPTER_CONFIG, clean | {"base_model_name_or_path": named or base_label(base)})
        weights = [source / WEIGHTS_NAME]
    else:
        _settings(source / _CONFIG, folder / _CONFIG)
        weights = [file for file in weight_files(source) if file.suffix == ".safetensors"]
        weights += [source / _INDEX] if (source / _INDEX).is_file() else []
    for file in weights:
        _copy(file, folder / file.name)
    copy_tokenizer(source, base, folder)
    own = next((place for place in (source, folder_of(base)) if place and (place / _GENERATION).is_file()), None)
    if own is not None:
        _settings(own / _GENERATION, folder / _GENERATION)
    write_verdict(folder, verdict, base)
    if named is None:
        return (
            f"the base {base_label(base)!r} has no known name on the hub: {ADAPTER_CONFIG} and the card need it. Give "
            "it by --base-name ORG/NAME."
        )
    return None


def write_verdict(folder: Path, verdict: Verdict | None, base: str) -> None:
    """verdict.json without paths; nothing where there is no verdict."""
    if verdict is not None:
        write_json(folder / VERDICT, without_paths(verdict.model_dump(mode="json"), (base,)))


def clean_settings(folder: Path) -> None:
    """Take the names of places out of the settings of a model's folder, where they lie."""
    for file in sorted(folder.rglob("*.json")):
        if file.name not in VOCABULARY and file.name != _INDEX:
            _settings(file, file)


def copy_tokenizer(source: Path, base: str, folder: Path) -> None:
    """The tokenizer and the chat templates of `source`, or those of the base where it has none, as their files are but
    for the places that they name; of a .gguf base as transformers makes them. ModelError when there are none."""
    homes = [source, None if base.endswith(".gguf") else folder_of(base)]
    found = next((files for home in homes if home and (files := _tokenizer(home))), {})
    if not found:
        tokenizer = load_tokenizer(resolve(base))
        with boundary(
            ModelError, folder, "the tokenizer cannot be written", "Free some space, or choose another --out."
        ):
            tokenizer.save_pretrained(folder)
        found = _tokenizer(folder)
    for name, file in found.items():
        target = folder / name
        with writing(target):
            target.parent.mkdir(exist_ok=True)
        if target.suffix == ".json" and target.name not in VOCABULARY:
            _settings(file, target)
        elif file != target:
            _copy(file, target)


def _tokenizer(home: Path) -> dict[str, Path]:
    """Name → file of a tokenizer; {} where there is no vocabulary among them."""
    found = {str(file.relative_to(home)): file for name in TOKENIZER for file in sorted(home.glob(name))}
    vocabularies = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    return found if any(name in found for name in vocabularies) else {}


def _object(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file, ModelError, _AGAIN, finite=False)
    except FileNotFoundError:
        raise ModelError(f"{file}: there is no such file. {_AGAIN}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file}: holds no JSON object. {_AGAIN}")
    return found


def _unnamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the fields that say where it was loaded from, in its parts too."""
    found = {}
    for key, value in values.items():
        if key not in _NAMES:
            found[key] = _unnamed(value) if isinstance(value, dict) else value
    return found


def _settings(file: Path, target: Path) -> None:
    """Copy settings without the names of places: as they are where they have none, or hold a number that JSON has no
    spelling for."""
    values = _object(file)
    clean = _unnamed(values)
    if clean != values and finite(clean) == clean:
        write_bytes(target, (to_json(clean, indent=2, ensure_ascii=False) + "\n").encode())
    elif file != target:
        _copy(file, target)


def _copy(file: Path, target: Path) -> None:
    if not file.is_file():
        raise ModelError(f"{file}: there is no such file. {_AGAIN}")
    with writing(target):
        shutil.copyfile(file, target)
