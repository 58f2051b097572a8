"""Tensors of which each process may hold a part only; a tensor that is whole everywhere is left as it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Of one in parts every process must ask, and each gets a copy of its own."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole value, the same on every process, into a tensor of its shape that may lie in parts."""
    if isinstance(tensor, DTensor):
        # Not sent: everybody has it.
        part = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.copy_(part)
    else:
        tensor.copy_(value)
