"""Weights of which each process of a training holds a part: all of one, or the part that lies here."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Of one in parts every process must ask, and each gets a copy of its own."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, which may be nothing: all of one that is not in parts."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def largest_part(tensor: Tensor) -> int:
    """Numbers of a tensor that the process with the most of it holds: the same answer everywhere."""
    numbers = tensor.numel()
    if isinstance(tensor, DTensor):
        for placement, count in zip(tensor.placements, tensor.device_mesh.shape, strict=True):
            if placement.is_shard():
                rows = tensor.shape[placement.dim]  # type: ignore[attr-defined]
                numbers = numbers // rows * -(-rows // count)
    return numbers
