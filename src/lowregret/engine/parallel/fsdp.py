"""Weights in parts (FSDP2); what is whole on every process is left as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lowregret.engine.parallel.mesh import Ranks


def shard(model: nn.Module, layers: Sequence[nn.Module], ranks: Ranks) -> None:
    """Cut every parameter into parts, one a rank: gathered layer by layer for a pass, gradients added up.

    What lies outside the layers is one group: a tied embedding may not be in two. Types are to be final: a parameter
    that is cast afterwards keeps a part of the old type. Nothing happens to a process alone.
    """
    mesh = ranks.sharded
    if mesh is None:
        return
    for module in (*layers, model):
        fully_shard(module, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def reshard(model: nn.Module) -> None:
    """Let go of what a pass without gradients has gathered outside the layers: a later pass would take it as it is."""
    if isinstance(model, FSDPModule):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def here(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
