"""Whether a configuration is that of the weight files beside it: looked at before anything as large is built."""

from __future__ import annotations

from copy import deepcopy
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch
from transformers import AutoModelForCausalLM

from lowregret.errors import ModelError
from lowregret.foreign import boundary
from lowregret.models.folder import FETCH, weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lowregret.models.gguf.header import Header

_BUFFERS = 2**28
"""Numbers that a model may keep beside its weights: masks and tables of positions."""


def check_folder_build(config: PretrainedConfig, folder: Path, asked: str) -> None:
    """ModelError when the model of `config` has more layers than the folder's files have tensors, or more than twice as
    many numbers as they have bytes: a number takes at least one. What differs by less is built, and told by its names.
    """
    files = weight_files(folder)
    if not files:
        return  # transformers says what it looks for
    count = 0
    for file in files:
        if file.suffix != ".safetensors":
            count += 10**6  # a pickle does not say before it is read
            continue
        with boundary(ModelError, file, "cannot be read", FETCH), safetensors.safe_open(file, "pt") as held:
            count += len(list(held.keys()))
    _check(config, count, sum(file.stat().st_size for file in files), asked)


def check_gguf_build(config: PretrainedConfig, header: Header) -> None:
    """The same of a .gguf file, whose header says how many numbers each of its tensors has."""
    tensors = header.tensors
    _check(config, len(tensors), sum(prod(tensor.shape) for tensor in tensors), header.name)


def _check(config: PretrainedConfig, tensors: int, most: int, asked: str) -> None:
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > tensors:
        raise ModelError(
            f"{asked}: its configuration has {layers:,} layers, and its files hold {tensors:,} tensors: the two are "
            "not of one model. Fetch both again."
        )
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(deepcopy(config))
    numbers = sum(weight.numel() for weight in built.parameters())
    beside = sum(buffer.numel() for buffer in built.buffers())
    if numbers > 2 * most or beside > max(most, _BUFFERS):
        raise ModelError(
            f"{asked}: its configuration is that of a model of {numbers + beside:,} numbers, and its files have room "
            f"for {most:,}: the two are not of one model. Fetch both again."
        )
