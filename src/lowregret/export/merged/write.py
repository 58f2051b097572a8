"""A whole model as a folder that transformers, vLLM and the converters of others read: shard after shard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lowregret.engine.state import save_tensors
from lowregret.errors import ModelError, RecordsError, SpecError
from lowregret.export.weights import Weights
from lowregret.models.bare import bare_base
from lowregret.models.files import companions
from lowregret.models.load import Source
from lowregret.models.stops import write_stops
from lowregret.runs.atomic import replacing_folder, write_bytes
from lowregret.strict_json import to_json

SHARD_BYTES = 5_000_000_000
"""Of a file of weights."""
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Written:
    """The weights of a folder that was written."""

    files: tuple[str, ...]
    bytes: int
    """Of the numbers in them."""


def write_merged(weights: Weights, folder: Path, shard_bytes: int = SHARD_BYTES) -> Written:
    """Write a model's weights, config.json, tokenizer and stops to a new `folder`.

    Each tensor is rounded once, to the type that `weights` names for it, and one file's are in the memory at a time.
    The folder has its name only when it is whole.

    Args:
        shard_bytes: the most that a file of weights holds; a larger tensor has a file of its own.

    Raises:
        SpecError: there is something at `folder` already.
        RecordsError: the disk has no room for it, or refuses.
        ModelError: a tensor cannot be read, or has numbers too large for the type that it is to be rounded to; the
            tokenizer cannot be loaded.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"--out {folder}: is there already. Name a new folder.")
    base = bare_base(Source(str(weights.folder), str(weights.folder)))
    shards = list(_shards(weights, shard_bytes))
    files = _file_names(len(shards))
    beside = companions(weights.folder)
    total = sum(_bytes(weights, name) for name in weights.names)
    _require_room(folder, total + sum(file.stat().st_size for file in beside.values()))
    with replacing_folder(folder) as partial:
        for name, file in beside.items():
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, partial / name)
        write_stops(base, partial)
        write_bytes(partial / "config.json", (to_json(dict(weights.config), indent=2) + "\n").encode())
        for file_name, names in zip(files, shards, strict=True):
            save_tensors({name: _rounded(weights, name) for name in names}, partial / file_name, {"format": "pt"})
        if len(shards) > 1:
            place = {name: file for file, names in zip(files, shards, strict=True) for name in names}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))}
            write_bytes(partial / _INDEX, (to_json(index, indent=2) + "\n").encode())
    return Written(files, total)


def _file_names(count: int) -> tuple[str, ...]:
    if count == 1:
        return ("model.safetensors",)
    return tuple(f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1))


def _shards(weights: Weights, most: int) -> Iterator[Sequence[str]]:
    """The names of each file, in the order in which they are read best."""
    names: list[str] = []
    size = 0
    for name in weights.names:
        own = _bytes(weights, name)
        if names and size + own > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += own
    yield names


def _bytes(weights: Weights, name: str) -> int:
    return prod(weights.shape(name)) * weights.dtype(name).itemsize


def _require_room(folder: Path, needed: int) -> None:
    """RecordsError when the disk cannot hold so many bytes more."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RecordsError(
            f"{folder}: needs {needed / 1e9:,.2f} GB, and the disk has {free / 1e9:,.2f} GB left. Free some space, "
            "choose another disk with --out, or fewer bits with --dtype bfloat16."
        )


def _rounded(weights: Weights, name: str) -> Tensor:
    """A tensor in the type that it is written in; ModelError where that cannot hold it."""
    tensor = weights.read(name)
    rounded = tensor.to(weights.dtype(name)).contiguous()
    if rounded.dtype == torch.float16 and tensor.dtype != torch.float16 and bool(rounded.isinf().any()):
        raise ModelError(
            f"{name}: has a weight of {float(tensor.abs().max()):g}, and float16 ends at 65504. Write the model with "
            "--dtype bfloat16 or float32."
        )
    return rounded
