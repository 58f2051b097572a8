"""Weights of which each process of a training holds a part: all of one, or the part that lies here."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Of one in parts every process must ask, and each gets a copy of its own."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def here(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process, which may be nothing."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
