"""The folder of a Hugging Face model, before a library reads it: its files are files, and of a size. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowregret import limits
from lowregret.errors import ModelError
from lowregret.foreign import read_json, require_file

FETCH = "Fetch the file again."
_TEXTS = (".json", ".jinja", ".txt", ".model", ".py")
_WEIGHTS = (".safetensors", ".bin")
_INDEX, _BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "mtp_num_hidden_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_SIZE = re.compile(
    r"(size|dim|layers?|heads|experts|embd|inner|state|rank|positions|embeddings|kernel|groups|width|n_ctx|per_tok)$"
)


def check_folder(folder: Path) -> None:
    """ModelError when a file that a loader may read is no regular file or too large, or an index names files that are
    not beside it."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror}). Name another folder.") from None
    for path in entries:
        if path.name == "tokenizer.json":
            require_file(path, ModelError, limits.TOKENIZER_BYTES)
        elif path.name.endswith(".jinja"):
            require_file(path, ModelError, limits.TEMPLATE_BYTES)
        elif path.suffix in (*_TEXTS, *_WEIGHTS):
            require_file(path, ModelError, limits.JSON_BYTES if path.suffix == ".json" else None)
    if (folder / _INDEX).exists():
        _check_index(folder / _INDEX)
    elif (folder / _BIN_INDEX).exists() and not any(
        (folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin")
    ):  # else nobody reads it
        _check_index(folder / _BIN_INDEX)


def _check_index(file: Path) -> None:
    held = read_json(file, ModelError, FETCH)
    names = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{file}: its weight_map is no table of weights and the files they are in. {FETCH}")
    for name in dict.fromkeys(names.values()):
        if name != Path(name).name or not file.with_name(name).is_file():
            raise ModelError(
                f"{file}: names the file {name[:80]!r}, which is not in this folder. Fetch all files again."
            )


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold weights."""
    return sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)


def read_config(folder: Path, asked: str) -> dict[str, Any]:
    """What config.json says, its sizes within `limits`. ModelError when there is none, or none that can be read."""
    try:
        values = read_json(folder / "config.json", ModelError, FETCH, finite=False)
    except FileNotFoundError:
        raise ModelError(f"{asked}: this folder holds no config.json, so it is no Hugging Face model.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{folder / 'config.json'}: holds no JSON object. {FETCH}")
    check_sizes(values, str(folder / "config.json"))
    return values


def check_sizes(values: Mapping[str, Any], place: str) -> None:
    """ModelError for a number of a configuration by which something is built, and that is too large to build."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            check_sizes(value, place)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SIZE.search(key):
            continue
        most = limits.LAYERS if key in _LAYERS else limits.WIDTH if key in _WIDTHS else limits.COUNT
        if not value <= most:
            raise ModelError(f"{place}: says {key} = {value:g}; at most {most:,} can be built. {FETCH}")
