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


@contextmanager
def offloaded(model: PreTrainedModel, *, on: bool = True) -> Iterator[None]:
    """Around a forward pass: what it saves for the backward pass waits in the host's memory. Nothing unless `on`."""
    if not on:
        yield
        return
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def pack(tensor: Tensor) -> tuple[Tensor, torch.device | None]:
        if tensor.untyped_storage().data_ptr() in weights:
            return tensor, None
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        host.copy_(tensor)
        return host, tensor.device

    def unpack(packed: tuple[Tensor, torch.device | None]) -> Tensor:
        tensor, device = packed
        return tensor if device is None else tensor.to(device, non_blocking=True)

    with saved_tensors_hooks(pack, unpack):
        yield
