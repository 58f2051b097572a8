"""A base's weights in files as transformers saves them, tensor after tensor: no process holds them whole.

Of a base that lies in parts, or is cut, each tensor is put together on all ranks, which rank 0 writes in its place and
all forget. What files hold apart, such as the experts of a layer, transformers takes apart, weight by weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from lowregret.engine.engine import Engine
from lowregret.engine.parallel.lead import together
from lowregret.models.load import quiet
from lowregret.models.sharded import whole
from lowregret.models.tensor_file import Entry, header, numbers_of
from lowregret.strict_json import to_json

FILE_BYTES = 50 * 10**9
"""Of the largest file: transformers' own."""
_META = torch.device("meta")


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    file: str
    start: int


@together
@torch.no_grad()
def write_weights(engine: Engine, folder: Path, most: int = FILE_BYTES) -> None:
    """Write the weights of an engine's base to a folder, on rank 0, in files of at most so many bytes.

    RecordsError or OSError when the disk refuses, told when every rank has given all of its parts.
    """
    model, ranks = engine.model, engine.ranks
    own, parts = _weights(model), engine.cuts.base()
    shapes = {
        name: torch.empty(parts.shape(name, weight), dtype=weight.dtype, device=_META) for name, weight in own.items()
    }
    left = iter(_groups(model, shapes))

    def read(names: Sequence[str]) -> dict[str, Tensor]:
        joined = {name: parts.joined(name, whole(own[name].detach())) for name in names}
        return {name: tensor.cpu() for name, tensor in joined.items()} if ranks.rank == 0 else {}

    with ranks.first_alone(folder):
        try:
            if ranks.rank == 0:
                _write(model, _reverted(model, shapes), (read(names) for names in left), folder, most)
        finally:
            for names in left:
                read(names)


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """What files hold of a model, what several names share by the first of them."""
    found: dict[str, Tensor] = {}
    left_out = set(model._keys_to_ignore_on_save or ())
    for name, weight in model.state_dict(keep_vars=True).items():
        if name not in left_out and not any(weight is other for other in found.values()):
            found[name] = weight
    return found


def _reverted(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as files hold them."""
    with quiet():
        found: dict[str, Tensor] = revert_weight_conversion(model, dict(weights))
    return found


def _groups(model: PreTrainedModel, shapes: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of weights that are taken apart without others: each alone, unless some make one tensor of a file."""
    apart = [{key: value.shape for key, value in _reverted(model, {name: shapes[name]}).items()} for name in shapes]
    together = {key: value.shape for key, value in _reverted(model, shapes).items()}
    alone = sum(map(len, apart)) == len(together) and {key: shape for one in apart for key, shape in one.items()}
    return [[name] for name in shapes] if alone == together else [list(shapes)]


def _storage(tensor: Tensor) -> int:
    """What tensors have in common that are parts of one weight: transformers leaves these in one file."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)


def _write(
    model: PreTrainedModel, shapes: Mapping[str, Tensor], groups: Iterator[dict[str, Tensor]], folder: Path, most: int
) -> None:
    split: Any = split_state_dict_into_shards_factory(
        dict(shapes),
        get_storage_size=lambda tensor: tensor.untyped_storage().nbytes(),
        get_storage_id=_storage,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=most,
    )
    with ExitStack() as stack:
        files, places = {}, dict[str, _Place]()
        for name, keys in split.filename_to_tensors.items():
            files[name] = stack.enter_context(open(folder / name, "wb"))
            entries = [Entry(key, tuple(shapes[key].shape), shapes[key].dtype) for key in sorted(keys)]
            beginning, ordered = header(entries)
            files[name].write(beginning)
            ends = accumulate((entry.bytes for entry in ordered), initial=len(beginning))
            places |= {entry.name: _Place(name, start) for entry, start in zip(ordered, ends, strict=False)}
        for group in groups:
            for key, tensor in _reverted(model, group).items():
                file = files[places[key].file]
                file.seek(places[key].start)
                file.write(numbers_of(tensor))
    if split.is_sharded:
        numbers = sum(tensor.numel() for tensor in shapes.values())
        index = {
            "metadata": {"total_parameters": numbers, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        text = to_json(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
