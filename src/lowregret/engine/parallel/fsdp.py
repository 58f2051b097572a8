"""Weights in parts (FSDP2); what is whole on every process is left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor, zeros

from lowregret.engine.parallel.mesh import Ranks


def shard(model: nn.Module, layers: Sequence[nn.Module], ranks: Ranks) -> None:
    """Cut every parameter into parts, one a rank: gathered layer by layer for a pass, gradients added up.

    What lies outside the layers is one group: a tied embedding may not be in two. Types are to be final: a parameter
    that is cast afterwards keeps a part of the old type. What lies on another device than the ranks compute on is
    moved, a layer at a time. Nothing happens to a process alone, nor to a model in parts.
    """
    mesh = ranks.sharded
    if mesh is None or in_parts(model):
        return
    for module in (*layers, model):
        fully_shard(module, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def in_parts(module: nn.Module) -> bool:
    """Whether a module's weights lie in parts, and are gathered for each of its passes."""
    return isinstance(module, FSDPModule)


def own_type(module: nn.Module) -> type[nn.Module]:
    """The class of a module as its author wrote it: cutting makes a subclass."""
    kinds = (kind for kind in type(module).__mro__ if issubclass(kind, nn.Module))
    return next(kind for kind in kinds if not issubclass(kind, FSDPModule))


def reshard(model: nn.Module) -> None:
    """Let go of what a pass without gradients has gathered outside the layers: a later pass would take it as it is."""
    if in_parts(model):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def unshard(module: nn.Module) -> None:
    """Gather the weights of a module, but for those of layers that are cut on their own, unless they are there."""
    if isinstance(module, FSDPModule):
        module.unshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """The same inside, for who reads a module's weights without calling it. Every rank must come here."""
    unshard(module)
    try:
        yield
    finally:
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole value, the same on every process, into a tensor of its shape that may lie in parts."""
    if isinstance(tensor, DTensor):
        # Not sent: everybody has it.
        part = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.copy_(part)
    else:
        tensor.copy_(value)


def zeros_beside(weight: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of this shape where a weight is; of one that lies in parts, cut by rows as that is."""
    if not isinstance(weight, DTensor):
        return torch.zeros(shape, dtype=dtype, device=weight.device)
    return zeros(shape, dtype=dtype, device_mesh=weight.device_mesh, placements=weight.placements)
