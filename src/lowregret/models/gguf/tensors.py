"""The tensors of a .gguf model: all in one file for transformers' reader, and none of them left out."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import quants
from transformers import modeling_gguf_pytorch_utils as reader

from lowregret.errors import ModelError
from lowregret.models.gguf import rope
from lowregret.models.gguf.header import Header, Part, Tensor
from lowregret.quantities import byte_count

_PLAIN = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)


def check_stored(header: Header) -> None:
    """ModelError when a tensor is stored in a way that cannot be read, or lies beyond the end of its file."""
    for part in header.parts:
        size = part.path.stat().st_size
        for tensor in part.tensors:
            kind = _kind(tensor)
            if kind is None or (kind not in _PLAIN and kind not in quants._type_traits):
                raise ModelError(
                    f"{header.name}: {tensor.name} is stored as {kind.name if kind else f'type {tensor.type}'}, which "
                    "the gguf package cannot turn into numbers. Give another quantisation, such as Q8_0 or F16."
                )
            if part.data + tensor.offset + _bytes(tensor) > size:
                raise ModelError(f"{part.path}: is cut off: {tensor.name} ends after its last byte. Fetch it again.")


def factors_of(header: Header) -> dict[str, rope.Factors]:
    """The tensors of the rotary embedding, [rotary dimensions / 2], float32."""
    return {
        tensor.name: quants.dequantize(_raw(part, tensor), gguf.GGMLQuantizationType(tensor.type)).ravel()
        for part in header.parts
        for tensor in part.tensors
        if tensor.name in rope.TENSORS
    }


@contextmanager
def one_file(header: Header) -> Iterator[Path]:
    """A file that holds the whole model: its own, or of a split one a temporary copy of all parts joined."""
    if len(header.parts) == 1:
        yield header.parts[0].path
        return
    size = sum(part.path.stat().st_size for part in header.parts)
    folder = Path(tempfile.gettempdir())
    if (free := shutil.disk_usage(folder).free) < size:
        raise ModelError(
            f"{header.name}: its {len(header.parts)} parts are joined in {folder} to be loaded; that takes "
            f"{byte_count(size)}, and {byte_count(free)} are free. Set TMPDIR to a folder with more space, or merge "
            "them (llama-gguf-split --merge)."
        )
    with tempfile.TemporaryDirectory(prefix="lowregret-gguf-") as made:
        joined = Path(made) / header.parts[0].path.name
        _join(header, joined)
        yield joined


def check_used(header: Header, model: Any, unexpected: Collection[str]) -> None:
    """ModelError when the file has a tensor that went into no weight of `model`, nor into its rotary embedding.

    `unexpected`: what transformers reports of the file and did not use. Layers beyond the model's own predict tokens
    further ahead (`nextn_predict_layers`), and are no part of it in a Hugging Face folder either.
    """
    config = model.config.get_text_config()
    used = set()
    if not reader_is_new(header.architecture):
        kind: Any = reader.TENSOR_PROCESSORS.get(header.architecture, reader.TensorProcessor)
        used = set(reader.get_gguf_hf_weights_map(model, kind(config=config.to_dict())))
    ahead = {f"blk.{layer}." for layer in _layers_ahead(header)}
    for tensor in header.tensors:
        name = tensor.name
        if name in rope.TENSORS or any(name.startswith(layer) for layer in ahead):
            continue
        taken = name not in unexpected if not used else name in used or name.removesuffix(".weight") in used
        if not taken:
            raise ModelError(
                f"{header.name}: {name} is in the file, and transformers' {type(model).__name__} has no place for it: "
                "it would compute something else. Give the Hugging Face folder of this model."
            )


def reader_is_new(architecture: str) -> bool:
    """Whether transformers reads the family by its newer reader, which reports what it does not use."""
    try:
        from transformers.integrations.gguf.utils import is_gguf_arch_supported
    except ImportError:  # of before it had one
        return False
    return bool(is_gguf_arch_supported(architecture))


def _layers_ahead(header: Header) -> range:
    count = int(header.fields["block_count"])
    return range(count - int(header.fields.get("nextn_predict_layers") or 0), count)


def _kind(tensor: Tensor) -> gguf.GGMLQuantizationType | None:
    try:
        return gguf.GGMLQuantizationType(tensor.type)
    except ValueError:
        return None


def _bytes(tensor: Tensor) -> int:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.type)]
    return prod(tensor.shape) // block * size


def _raw(part: Part, tensor: Tensor) -> np.ndarray[Any, Any]:
    with part.path.open("rb") as file:
        file.seek(part.data + tensor.offset)
        return np.frombuffer(file.read(_bytes(tensor)), dtype=np.uint8)


def _join(header: Header, out: Path) -> None:
    """One file with the keys of the first part and the tensors of all."""
    first, at = header.parts[0], 0
    moved: list[tuple[Part, Tensor, Tensor]] = []
    for part in header.parts:
        for tensor in part.tensors:
            moved.append((part, tensor, replace(tensor, offset=at)))
            at += -(-_bytes(tensor) // first.alignment) * first.alignment
    with out.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", first.version, len(moved), first.pairs))
        with first.path.open("rb") as source:
            source.seek(24)
            file.write(source.read(first.ends - 24))
        for _, _, tensor in moved:
            name = tensor.name.encode()
            file.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
            file.write(struct.pack("<IQ", tensor.type, tensor.offset))
        data = -(-file.tell() // first.alignment) * first.alignment
        for part, old, tensor in moved:
            file.seek(data + tensor.offset)
            with part.path.open("rb") as source:
                source.seek(part.data + old.offset)
                _copy(source, file, _bytes(old))
        file.truncate(max(file.tell(), data + at))


def _copy(source: Any, target: Any, size: int) -> None:
    while size:
        chunk = source.read(min(size, 1 << 24))
        if not chunk:
            raise OSError(f"{os.fspath(source.name)} ends too early")
        target.write(chunk)
        size -= len(chunk)
