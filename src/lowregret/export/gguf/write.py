"""A model as one GGUF file, written tensor by tensor: a base may be larger than the memory."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from lowregret.errors import ModelError
from lowregret.export.gguf.architecture import Architecture, architecture
from lowregret.export.gguf.kinds import KINDS, Kind, Type, check_kind, stored, stored_bytes, type_of
from lowregret.export.gguf.quantize import quantize, quantizer
from lowregret.export.gguf.tensors import FACTORS, Planned, plan_tensors
from lowregret.export.gguf.vocabulary import Vocabulary, read_vocabulary
from lowregret.export.weights import Weights
from lowregret.foreign import boundary
from lowregret.quantities import byte_count
from lowregret.runs.atomic import replacing

_REST = "Write another kind, or fetch the model's files again."


@dataclass(frozen=True)
class Written:
    """A file that was written."""

    file: Path
    kind: str
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()
    """What a user should know of it, in sentences."""
    add_bos: bool | None = None
    """Whether the file puts BOS before a text; None: as the tokenizer does."""


def write_gguf(weights: Weights, file: Path, kind: str, *, name: str = "", add_bos: bool | None = None) -> Written:
    """Write a model, its tokenizer and its chat template to `file`; what is there is replaced when all is written.

    `kind`: of `KINDS`, or a K-quant, which the `llama-quantize` on the PATH makes. `name`: what llama.cpp shows.
    `add_bos`: whether BOS is put before a text; by default as the tokenizer does. Matrices are read one at a time, in
    float32. Raises ModelError for a base of which llama.cpp would compute something else, SpecError for a kind that is
    none, and RecordsError for a folder that cannot be written.
    """
    check_kind(kind)
    began = time.monotonic()
    known = architecture(weights.config, str(weights.folder))
    words = read_vocabulary(weights.folder, known.rows)
    planned = plan_tensors(weights, known)
    program = None if kind in KINDS else quantizer(kind)
    notes = [*known.notes, *words.notes]
    with replacing(file) as partial:
        if program is None:
            precision = KINDS[kind]
            notes += _odd(precision, planned)
            _check_space(partial, precision, planned)
            _write(weights, partial, precision, known, words, planned, name, add_bos)
        else:
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as aside:
                between = Path(aside) / "f32.gguf"
                _check_space(between, KINDS["F32"], planned)
                _write(weights, between, KINDS["F32"], known, words, planned, name, add_bos)
                quantize(program, between, partial, kind)
    return Written(file, kind, file.stat().st_size, time.monotonic() - began, tuple(notes))


def _write(
    weights: Weights,
    file: Path,
    kind: Kind,
    known: Architecture,
    words: Vocabulary,
    planned: Iterable[Planned],
    name: str,
    add_bos: bool | None,
) -> None:
    writer = begin(file, known.name)
    writer.add_type(gguf.GGUFType.MODEL)
    if name:
        writer.add_name(name)
    writer.add_file_type(kind.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in known.keys.items():
        add_key(writer, f"{known.name}.{key}", value)
    words.write(writer)
    if add_bos is not None:
        del writer.kv_data[0][gguf.Keys.Tokenizer.ADD_BOS]
        writer.add_add_bos_token(add_bos)
    types = {tensor.name: type_of(kind, tensor.name, tensor.shape) for tensor in planned}
    if known.factors:
        add_tensor(writer, FACTORS, (len(known.factors),), Type.F32)
    for tensor in planned:
        add_tensor(writer, tensor.name, tensor.shape, types[tensor.name])
    begin_data(writer)
    if known.factors:
        writer.write_tensor_data(np.array(known.factors, dtype=np.float32))
    with torch.inference_mode():
        for tensor in planned:
            with boundary(ModelError, weights.folder, f"{tensor.name} cannot be written", _REST):
                writer.write_tensor_data(stored(tensor.read(weights), types[tensor.name], tensor.name))
    writer.close()


def begin(file: Path, architecture: str) -> gguf.GGUFWriter:
    """A file to be written to this place."""
    return gguf.GGUFWriter(file, architecture)


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A number or a text, in the type that llama.cpp reads it by."""
    add: dict[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    add[type(value)](key, value)


def add_tensor(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], type: Type) -> None:
    """A tensor whose values follow."""
    writer.add_tensor_info(name, shape, np.dtype(np.float32), stored_bytes(type, shape), raw_dtype=type)


def begin_data(writer: gguf.GGUFWriter) -> None:
    """End the header; the tensors' values follow in the order in which they were added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _odd(kind: Kind, planned: Iterable[Planned]) -> list[str]:
    """Of matrices that are kept at F16 because their rows do not divide into blocks."""
    block, _ = gguf.GGML_QUANT_SIZES[kind.type]
    odd = [tensor.name for tensor in planned if len(tensor.shape) > 1 and tensor.shape[-1] % block]
    if not odd:
        return []
    return [f"{len(odd)} matrices have rows that are no multiple of {block} and are kept at F16: the first is {odd[0]}"]


def _check_space(file: Path, kind: Kind, planned: Iterable[Planned]) -> None:
    size = sum(stored_bytes(type_of(kind, tensor.name, tensor.shape), tensor.shape) for tensor in planned)
    free = shutil.disk_usage(file.parent).free
    if free < size:
        raise ModelError(
            f"{file.parent}: {byte_count(size)} are written, and {byte_count(free)} are free. Free some space, "
            "choose another folder, or a smaller kind."
        )
