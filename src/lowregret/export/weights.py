"""A model's weights as its files name them, one at a time: what a merge changes and what an export writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.foreign import boundary
from lowregret.models.files import weights_used
from lowregret.models.folder import check_folder, read_config
from lowregret.models.tensor_file import DTYPES

_REMEDY = "Fetch its files again, or give another base."


class Weights(Protocol):
    """The tensors of a model by the names that its files have, and what else its folder says.

    Whoever writes them reads one after the other, so that a model may be larger than the memory.
    """

    @property
    def folder(self) -> Path:
        """Where the tokenizer and the settings lie that travel with them."""

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, as it is to be written beside them."""

    @property
    def names(self) -> Sequence[str]:
        """Of all tensors, in the order in which they are read best."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""

    def dtype(self, name: str) -> torch.dtype:
        """In which it is stored."""

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU: as it is stored, or in float32 where something was added to it."""


@dataclass(frozen=True)
class _Stored:
    file: Path
    shape: tuple[int, ...]
    dtype: str


class StoredWeights:
    """The safetensors files of a Hugging Face folder; a context that closes them. ModelError when they cannot be read,
    and for a folder of .bin files.

    One file is open at a time: what is read of a file stays in the memory until it is closed.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self.folder = folder
        self.config: Mapping[str, Any] = read_config(folder, str(folder))
        self._stored: dict[str, _Stored] = {}
        self._open: tuple[Path, Any] | None = None
        files = [file for file in weights_used(folder) if file.suffix == ".safetensors"]
        if not files:
            raise ModelError(
                f"{folder}: holds no safetensors file. Save the model anew as safetensors: load it where you trust it "
                "and call save_pretrained."
            )
        for file in files:
            with boundary(ModelError, file, "cannot be read", _REMEDY), safe_open(file, "pt") as held:
                for name in list(held.keys()):
                    there = held.get_slice(name)
                    self._stored[name] = _Stored(file, tuple(there.get_shape()), there.get_dtype())
        self.names: Sequence[str] = tuple(self._stored)

    def __enter__(self) -> StoredWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return self._stored[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """In which it is stored; ModelError for one that torch does not have."""
        stored = self._stored[name].dtype
        if stored not in DTYPES:
            raise ModelError(f"{self.folder}: {name} is stored as {stored}, which is not read here. {_REMEDY}")
        return DTYPES[stored]

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored, on the CPU."""
        file = self._stored[name].file
        with boundary(ModelError, file, f"{name} cannot be read", _REMEDY):
            if self._open is None or self._open[0] != file:
                self._open = None
                self._open = file, safe_open(file, "pt")
            tensor: Tensor = self._open[1].get_tensor(name)
        return tensor
