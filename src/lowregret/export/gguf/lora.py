"""A LoRA in PEFT's format as the GGUF file that llama.cpp puts on a base."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import gguf
import torch

from lowregret.errors import ModelError
from lowregret.export.gguf.architecture import Architecture, architecture
from lowregret.export.gguf.kinds import Type
from lowregret.export.gguf.tensors import heads_of, permuted, stored_name
from lowregret.export.gguf.write import Written, add_tensor, begin, begin_data
from lowregret.export.weights import StoredWeights
from lowregret.lora.formats.fields import RESIDUAL_INITS
from lowregret.lora.formats.peft import AdapterFile, SavedAdapter, read_adapter
from lowregret.lora.formats.ranks import alike
from lowregret.runs.atomic import replacing

_MERGE = "Merge it into its base and write that as GGUF (--format gguf)."


def write_lora_gguf(adapter: Path, base: Path, file: Path) -> Written:
    """Write the adapter in a folder, made on the base in another, to `file`, in float32.

    llama.cpp has one alpha for all matrices and divides it by the rank: written is scale · rank, with all matrices at
    one rank and one scale. Rows of B go the way of the base's own queries and keys. Raises ModelError, saying to merge,
    for what llama.cpp has no form for: DoRA, experts, the unembedding of a tied base, weights of the base that were
    trained beside the LoRA, a LoRA whose first product is off its base (PEFT's own form of PiSSA and OLoRA).
    """
    began = time.monotonic()
    read = read_adapter(adapter)
    if not read.weights:
        raise ModelError(f"{adapter}: holds no LoRA matrices. Name an adapter's folder.")
    init = str(read.config.get("init_lora_weights")).lower()
    if init in RESIDUAL_INITS:
        raise ModelError(
            f"{adapter}: init_lora_weights is {init!r}: its base has lost the LoRA's first product, and the file "
            "of the base has not. Save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain "
            f"LoRA. Or: {_MERGE}"
        )
    with StoredWeights(base) as weights:
        known = architecture(weights.config, str(base))
        tied = weights.config.get("tie_word_embeddings", known.name.startswith("gemma"))
        names = {module: _name(adapter, known, module, saved, bool(tied)) for module, saved in read.weights.items()}
        _check_shapes(adapter, weights, read)
        _check_copies(adapter, weights, read)
    config, plain = alike(adapter, read.config, read.weights, fixed=False)
    alpha = float(config["lora_alpha"]) * (math.sqrt(config["r"]) if config.get("use_rslora") else 1.0)
    with replacing(file) as partial:
        _write(partial, known, plain, names, alpha)
    return Written(file, "F32", file.stat().st_size, time.monotonic() - began)


def _name(adapter: Path, known: Architecture, module: str, saved: SavedAdapter, tied: bool) -> str:
    """llama.cpp's name of the matrix that a module's LoRA changes."""
    if saved.magnitude is not None:
        raise ModelError(f"{adapter}: is a DoRA, which llama.cpp has no form for. {_MERGE}")
    if ".experts" in module:
        raise ModelError(f"{adapter}: adapts experts ({module}), which llama.cpp has no form for. {_MERGE}")
    if module == "lm_head" and tied:
        raise ModelError(
            f"{adapter}: adapts the unembedding (lm_head) of a base that ties it to its embedding; llama.cpp has no "
            f"unembedding there to adapt. {_MERGE}"
        )
    found = stored_name(known, f"{module}.weight")
    if found is None or not found.endswith(".weight"):
        raise ModelError(f"{adapter}: adapts {module}, which llama.cpp's {known.name} has no place for. {_MERGE}")
    return found


def _check_shapes(adapter: Path, weights: StoredWeights, read: AdapterFile) -> None:
    names = set(weights.names)
    for module, saved in read.weights.items():
        name = f"{module}.weight"
        if name not in names:
            raise ModelError(f"{adapter}: adapts {module}, which {weights.folder} does not have. Name its own base.")
        rows, columns = weights.shape(name)
        a, b = tuple(saved.a.shape), tuple(saved.b.shape)
        if a[1:] != (columns,) or b[:1] != (rows,) or a[0] != b[1]:
            raise ModelError(
                f"{adapter}: {module} has A {a} and B {b}, and the base's matrix is {(rows, columns)}. Name the base "
                "that the adapter was made on."
            )


def _check_copies(adapter: Path, weights: StoredWeights, read: AdapterFile) -> None:
    """ModelError when a weight of the base that lies beside the LoRAs is not the base's."""
    for name, copy in read.copies.items():
        own = weights.read(name).float() if name in weights.names else None
        if own is None or own.shape != copy.shape or not torch.allclose(own, copy.float(), rtol=1e-2, atol=1e-4):
            raise ModelError(
                f"{adapter}: holds {name} beside the LoRA, with other values than {weights.folder} has: it was "
                f"trained, too, and a LoRA file has no place for it. {_MERGE}"
            )


def _write(
    file: Path, known: Architecture, weights: Mapping[str, SavedAdapter], names: Mapping[str, str], alpha: float
) -> None:
    writer = begin(file, known.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for module, saved in weights.items():
        add_tensor(writer, f"{names[module]}.lora_a", tuple(saved.a.shape), Type.F32)
        add_tensor(writer, f"{names[module]}.lora_b", tuple(saved.b.shape), Type.F32)
    begin_data(writer)
    for module, saved in weights.items():
        heads = heads_of(known, names[module])
        writer.write_tensor_data(saved.a.contiguous().numpy())
        writer.write_tensor_data((saved.b if heads is None else permuted(saved.b, heads)).contiguous().numpy())
    writer.close()
