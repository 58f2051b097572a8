"""A folder of a model's weights, in files of a limited size, with all that belongs to them: what transformers, vLLM and
the hub take."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.errors import RecordsError
from lowregret.export.merged.weights import BLOCK, MergedWeights
from lowregret.export.weights import Weights
from lowregret.models.bare import bare_base
from lowregret.models.files import companions
from lowregret.models.finite import refuse_broken
from lowregret.models.load import Source
from lowregret.models.stops import write_stops
from lowregret.models.tensor_file import Entry, write_tensors
from lowregret.runs.atomic import make_folder, replacing_folder
from lowregret.strict_json import to_json

SHARD_BYTES = 5 * 10**9
"""Of the largest file."""
_BESIDE = 2**20
"""Bytes for the configuration and the index."""


@dataclass(frozen=True)
class Written:
    """What a folder holds."""

    folder: Path
    dtype: torch.dtype
    """Of most of its numbers."""
    bytes: int
    """Of the weights."""
    files: tuple[str, ...]
    """Of the weights."""
    updates_lost: float | None
    """Share of the entries with an update that rounding gave back to the base; None where nothing was merged."""


def write_merged(
    weights: Weights, folder: Path, *, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES
) -> Written:
    """Write weights and what belongs to them to `folder`, replacing what is there once the new one is whole.

    Args:
        weights: merged ones, or those of a folder as they are.
        folder: where to.
        dtype: of all floating-point tensors but those that transformers keeps in float32 for this family; without it
            each is written in the type in which it is stored.
        shard_bytes: of the largest file; a larger tensor gets one of its own.

    At most one tensor is in the memory, in the type in which it is written; arithmetic is block by block. ModelError
    when a number is not finite, or too large for the type; RecordsError when the disk has no room or refuses.
    """
    base = bare_base(Source(str(weights.folder), str(weights.folder)))
    entries = [Entry(name, weights.shape(name), kind) for name, kind in _types(weights, base.model, dtype)]
    beside = companions(weights.folder)
    size = sum(entry.bytes for entry in entries)
    _require_room(folder, size + sum(file.stat().st_size for file in beside.values()) + _BESIDE)
    main = _main(entries)
    with replacing_folder(folder) as partial:
        files = _write_shards(partial, entries, shard_bytes, lambda entry: _rounded(weights, entry))
        for name, file in beside.items():
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, partial / name)
        write_stops(base, partial)
        _write_json(partial / "config.json", config_in(weights.config, None if dtype is None else main))
    lost = weights.updates_lost if isinstance(weights, MergedWeights) else None
    return Written(folder, main, size, files, lost)


def _types(weights: Weights, model: PreTrainedModel, dtype: torch.dtype | None) -> Iterator[tuple[str, torch.dtype]]:
    """In which type each tensor is written."""
    kept = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)] if dtype else []
    for name in weights.names:
        stored = weights.dtype(name)
        if dtype is None or not stored.is_floating_point:
            yield name, stored
        else:
            yield name, torch.float32 if any(re.search(pattern, name) for pattern in kept) else dtype


def _main(entries: Iterable[Entry]) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for entry in entries:
        counts[entry.dtype] += prod(entry.shape)
    return counts.most_common(1)[0][0]


def _rounded(weights: Weights, entry: Entry) -> Tensor:
    """A tensor as it is written; ModelError when it holds what is no number, or none of this type."""
    if isinstance(weights, MergedWeights):
        tensor = weights.rounded(entry.name, entry.dtype)
    else:
        tensor = weights.read(entry.name).to(entry.dtype)
    # Block by block, because a sum in float32 makes a copy in float32.
    if tensor.is_floating_point() and not all(
        bool(torch.isfinite(block.sum(dtype=torch.float32))) for block in tensor.reshape(-1).split(BLOCK)
    ):
        too_large = " Or they are too large for float16: write bfloat16." if entry.dtype is torch.float16 else ""
        remedy = f"The base or an adapter is a broken copy, or had diverged: give another.{too_large}"
        refuse_broken(str(weights.folder), {entry.name: tensor}, remedy)
    return tensor


def _require_room(folder: Path, needed: int) -> None:
    make_folder(folder.absolute().parent)
    free = shutil.disk_usage(folder.absolute().parent).free
    if needed > free:
        raise RecordsError(
            f"{folder}: needs {needed:,} bytes, and the disk has {free:,} left. Free some space, or choose another "
            "folder with --out."
        )


def _write_shards(
    folder: Path, entries: Sequence[Entry], most: int, read: Callable[[Entry], Tensor]
) -> tuple[str, ...]:
    """The files, and an index if there are several."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.bytes > most:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.bytes
    count = len(shards)
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, shard, read)
    if count > 1:
        placed = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        total = sum(entry.bytes for entry in entries)
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": placed})
    return tuple(names)


def config_in(config: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """config.json for weights in a type, or in that which it says; without the place the base was once loaded from."""
    found = {key: value for key, value in config.items() if key != "_name_or_path"}
    if dtype is None:
        return found
    name = str(dtype).removeprefix("torch.")
    for key, part in found.items():
        if isinstance(part, Mapping) and {"dtype", "torch_dtype"} & part.keys():
            found[key] = config_in(part, dtype)
    return found | {"dtype": name} | ({"torch_dtype": name} if "torch_dtype" in found else {})


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(to_json(dict(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
