"""Which of two ways each kind of work is done, by what a device is fast at: the one table."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

LEAST_CHUNK = 128 * 2**20
"""Bytes of logits at once, at least. Measured on a CPU: products lose a tenth below 128 positions, and gain nothing
beyond 256."""
CHUNK_SHARE = 64
"""A GPU has this many times as much memory as a chunk of logits takes. It reads all of the unembedding for each chunk,
which only from about a thousand positions takes less time than the product: derived, not measured."""
BANK_BYTES = 192 * 2**20
"""Of the weights of policies that lie side by side on a CPU: a copy of them takes less than a tenth of a second. Eight
adapters of rank 16 on SmolLM2-135M; those of larger bases have products so large that taking them together saves
little."""
HOPPER = (9, 10)
"""Major compute capabilities for which torch's `grouped_mm` is one kernel; elsewhere it reads the sizes from the
device, which waits for it, and loops (aten/src/ATen/native/cuda/GroupedBlas.cpp)."""


@dataclass(frozen=True)
class Kernels:
    """How what can be computed in two ways is computed. Both give the same numbers, to rounding, but for the masks."""

    varlen: bool = False
    """Attention by torch's kernel for rows that lie end to end; else rows of like length at a time, padded."""
    grouped: bool = False
    """Products of policies with unlike numbers of tokens by one `grouped_mm`; else one product each."""
    counted: bool = False
    """Dropout's masks from the place of each number; else from a generator that is seeded for each row and matrix."""
    chunk_bytes: int = LEAST_CHUNK
    """Bytes of logits that are there at once."""
    bank_bytes: int | None = None
    """The most bytes of a bank's weights, which are copied when a policy joins or leaves; None is no bound."""


CPU = Kernels(bank_bytes=BANK_BYTES)
"""Those of a CPU."""


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels:
    """What is fast on a device whose products are of this type.

    | device | attention | uneven packs | masks | logits at once | a bank |
    |---|---|---|---|---|---|
    | CPU | groups | a product each | seeded | 128 MiB | 192 MiB |
    | CUDA, bfloat16, capability 9 or 10 | varlen | grouped | counted | 1/64 of its memory | any size |
    | CUDA, bfloat16, capability 8, 11 or 12 | varlen | a product each | counted | 1/64 of its memory | any size |
    | other GPUs, and float32 | groups | a product each | counted | 1/64 of its memory, or 128 MiB | any size |
    """
    if device.type == "cpu":
        return CPU
    if device.type != "cuda":
        return Kernels(counted=True)
    properties = torch.cuda.get_device_properties(device)
    chunk = max(LEAST_CHUNK, int(properties.total_memory) // CHUNK_SHARE)
    low = dtype is torch.bfloat16 and torch.version.hip is None
    varlen = low and properties.major >= 8 and _torch_has_varlen()
    grouped = low and properties.major in HOPPER and hasattr(torch.nn.functional, "grouped_mm")
    return Kernels(varlen=varlen, grouped=grouped, counted=True, chunk_bytes=chunk)


def _torch_has_varlen() -> bool:
    """Whether this torch's attention for rows end to end knows windows and heads that share keys: 2.9 has none, and
    that of 2.10 does not."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa", "scale"} <= set(inspect.signature(varlen_attn).parameters)


_ALIGNED = 16
"""Bytes at a multiple of which each tensor begins that is moved with others."""


def moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, which is not waited for: from pinned memory, while the host goes on."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def moved_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same of several, small ones: on a GPU one transfer, whose parts they are then."""
    if device.type != "cuda":
        return [x.to(device) for x in tensors]
    return parts_of(moved(end_to_end(tensors), device), tensors)


def end_to_end(tensors: Sequence[Tensor]) -> UInt8[Tensor, " bytes"]:
    """The bytes of some tensors, one after the other, each filled up to a multiple of 16."""
    flat = [x.flatten().contiguous().view(torch.uint8) for x in tensors]
    return torch.cat([torch.nn.functional.pad(each, (0, -len(each) % _ALIGNED)) for each in flat])


def parts_of(together: UInt8[Tensor, " bytes"], tensors: Sequence[Tensor]) -> list[Tensor]:
    """What `end_to_end` made of these tensors, in their types and shapes again."""
    sizes = [x.numel() * x.element_size() for x in tensors]
    filled = together.split([size + -size % _ALIGNED for size in sizes])
    return [part[:size].view(x.dtype).view(x.shape) for part, size, x in zip(filled, sizes, tensors, strict=True)]
