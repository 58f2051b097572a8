"""In which precisions a GGUF file is written, and how far its answers may then be from the model's."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import torch
from torch import Tensor

from lowregret.errors import ModelError, SpecError, did_you_mean
from lowregret.runs.proof import Bound

Type = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Kind:
    """One precision."""

    name: str
    type: Type
    """Of matrices."""
    file_type: gguf.LlamaFileType
    """What the file says of itself."""
    ends: Type
    """Of the embedding and the unembedding, which four and five bits hurt most: llama-quantize keeps them finer."""


def _kind(name: str, file_type: str, ends: str | None = None) -> Kind:
    return Kind(name, getattr(Type, name), getattr(gguf.LlamaFileType, file_type), getattr(Type, ends or name))


KINDS = {
    kind.name: kind
    for kind in (
        _kind("F32", "ALL_F32"),
        _kind("F16", "MOSTLY_F16"),
        _kind("BF16", "MOSTLY_BF16"),
        _kind("Q8_0", "MOSTLY_Q8_0"),
        _kind("Q5_0", "MOSTLY_Q5_0", "Q8_0"),
        _kind("Q4_0", "MOSTLY_Q4_0", "Q8_0"),
    )
}
"""What is written here. The blocks of the quantised ones are those of ggml, made by the gguf package."""

K_QUANTS = ("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
"""What llama.cpp's own `llama-quantize` makes of a file."""

_OUT_OF_RANGE = "F16 has no number above 65504. Write BF16 or F32"


def check_kind(name: str) -> None:
    """SpecError that lists the kinds, for another."""
    if name not in KINDS and name not in K_QUANTS:
        raise SpecError(f"GGUF has no kind {name!r} here. {did_you_mean(name, (*KINDS, *K_QUANTS))}")


def type_of(kind: Kind, name: str, shape: tuple[int, ...]) -> Type:
    """How a tensor of llama.cpp's name is stored: in F32 whatever is no matrix, and a router, which llama.cpp keeps so;
    in F16 what has rows that are no multiple of the kind's block."""
    if len(shape) < 2 or name.endswith("ffn_gate_inp.weight"):
        return Type.F32
    type = kind.ends if name in ("token_embd.weight", "output.weight") else kind.type
    block, _ = gguf.GGML_QUANT_SIZES[type]
    return Type.F16 if shape[-1] % block else type


def stored_bytes(type: Type, shape: tuple[int, ...]) -> int:
    """Of a tensor, without the padding after it."""
    block, size = gguf.GGML_QUANT_SIZES[type]
    return int(np.prod(shape, dtype=np.int64)) // block * size


def stored(tensor: Tensor, type: Type, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """A tensor's values as the file has them; ModelError where F16 cannot hold one."""
    values = tensor.to(torch.float32).contiguous().numpy()
    if type is Type.F32:
        return values
    if type is Type.F16:
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ModelError(f"{name}: {_OUT_OF_RANGE}.")
        return half
    made: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = gguf.quants.quantize(values, type)
    return made


BOUNDS = {
    "F32": Bound(1e-2, 2e-3, 1e-3),
    "F16": Bound(0.2, 0.02, 5e-3),
    "BF16": Bound(0.7, 0.08, 0.015),
    "Q8_0": Bound(4.0, 0.4, 0.02),
    "Q5_0": Bound(24.0, 2.4, 0.8),
    "Q4_0": Bound(32.0, 4.2, 0.8),
}
"""Of what is written here, in the 200 most probable tokens' log-probabilities: about three times what was measured on
SmolLM2-135M-Instruct, eight texts continued by up to 64 tokens beside transformers in float32
(docs/guides/shipping-gguf.md has the table). llama.cpp rounds what goes into a product, too, to the precision of the
matrix or to Q8_0; F32 alone is bounded by what it promises. At five and four bits a bound tells a broken file from a
coarse one, and no more: the figures themselves say how good it is."""
_BOUNDED_AS = {"Q6_K": "Q5_0", "Q5_K_M": "Q5_0", "Q5_K_S": "Q5_0", "Q4_K_M": "Q4_0", "Q4_K_S": "Q4_0"}
"""K-quants lose no more than the plain kind of as many bits, or fewer."""


def bound_of(kind: str, activation: str) -> Bound:
    """The bound of a kind for a model with this activation: llama.cpp looks GELU up in a table of half floats (ggml,
    `ggml_table_gelu_f16`), so a model with it answers as one in F16 at best."""
    bound = BOUNDS[_BOUNDED_AS.get(kind, kind)]
    return BOUNDS["F16"] if kind == "F32" and "gelu" in activation else bound
