"""A safetensors file written tensor after tensor: its library writes a whole one out of the memory only.

The format is that of github.com/huggingface/safetensors: eight bytes with the length of the header, the header as JSON
with the type, the shape and the place of each tensor, and their bytes one after the other. Wider types come first, so
that each begins at a multiple of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowregret.strict_json import to_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
"""safetensors' names of those that a model which is shipped may have."""
_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
FORMAT: Mapping[str, str] = {"format": "pt"}
"""What a file says of itself, if nothing else."""


@dataclass(frozen=True)
class Entry:
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def header(entries: Sequence[Entry], metadata: Mapping[str, str] = FORMAT) -> tuple[bytes, list[Entry]]:
    """(what a file of these tensors begins with, the tensors in the order of their bytes)."""
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    said: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for entry in ordered:
        ends = [place, place + entry.bytes]
        said[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": ends}
        place = ends[1]
    text = to_json(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered


def write_tensors(file: Path, entries: Sequence[Entry], read: Callable[[Entry], Tensor]) -> None:
    """Write what `read` gives for each of them, which must be of its shape and type. Raises OSError."""
    beginning, ordered = header(entries)
    with open(file, "wb") as stream:
        stream.write(beginning)
        for entry in ordered:
            tensor = read(entry)
            assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), entry.name
            stream.write(numbers_of(tensor))


def numbers_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU."""
    plain: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(plain)
