"""Activations in the host's memory between the passes: what autograd saves is copied there, and back when needed.

`torch.autograd.graph.save_on_cpu` does the same to all that is saved, weights too; these stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from lowregret.models.four_bit import FourBitWeight


@contextmanager
def offloaded(model: PreTrainedModel, *, on: bool = True) -> Iterator[None]:
    """Around a forward pass: what it saves for the backward pass waits in the host's memory. Nothing unless `on`."""
    if not on:
        yield
        return
    plain = (weight for weight in model.parameters() if not isinstance(weight, FourBitWeight))
    weights = {weight.untyped_storage().data_ptr() for weight in plain}

    def pack(tensor: Tensor) -> tuple[Tensor, torch.device | None, tuple[int, ...]]:
        if isinstance(tensor, FourBitWeight) or tensor.untyped_storage().data_ptr() in weights:
            return tensor, None, ()
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        host.copy_(tensor)
        return host, tensor.device, tensor.stride()

    def unpack(packed: tuple[Tensor, torch.device | None, tuple[int, ...]]) -> Tensor:
        tensor, device, strides = packed
        if device is None:
            return tensor
        if tensor.stride() == strides or 0 in strides:
            return tensor.to(device, non_blocking=True)
        # A part of a wider tensor: one that lies otherwise would be multiplied with other rounding.
        found = torch.empty_strided(tensor.size(), strides, dtype=tensor.dtype, device=device)
        return found.copy_(tensor, non_blocking=True)

    with saved_tensors_hooks(pack, unpack):
        yield
