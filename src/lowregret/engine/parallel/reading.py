"""Weights of a base that is cut, read part by part: of each the slice of the files that this rank holds.

transformers reads what of a DTensor is here. So while a base is filled, a weight that is cut over tensor or expert
ranks is a DTensor of the whole; where FSDP2 cuts once more, it is of both, the former first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel

from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.parallel.parts import BaseCuts


@contextmanager
def as_stored(model: PreTrainedModel, cuts: BaseCuts) -> Iterator[None]:
    """Inside, a base without weights looks as in its files, and takes of each weight this rank's part."""
    held = {name: model.get_parameter(name) for name in cuts.weights}
    if not held:
        yield
        return
    meshes = _Meshes(cuts.ranks)
    for name, parameter in held.items():
        axis = "tensor" if cuts.weights[name].axis is cuts.ranks.tensor else "expert"
        over = parameter.device_mesh.mesh_dim_names or () if isinstance(parameter, DTensor) else ()
        _put(model, name, _whole(parameter, cuts.weights[name], meshes.of(axis, over)))
    yield
    for name, parameter in held.items():
        read = model.get_parameter(name)
        assert isinstance(read, DTensor)
        _put(model, name, _like(parameter, read.to_local()))
    if cuts.ranks.tensor.rank:
        for name in cuts.rowwise:  # a bias is added once: by the first rank
            bias = getattr(model.get_submodule(name), "bias", None)
            if isinstance(bias, Tensor):
                bias.detach().zero_()


def _whole(part: Tensor, cut: Cut, mesh: DeviceMesh) -> Tensor:
    """On the device `meta`: all of which this is a part, cut as it is here."""
    shape = list(part.shape)
    shape[cut.dim] = cut.whole
    placements = [Shard(len(shape) + cut.dim), *(part.placements if isinstance(part, DTensor) else ())]
    local = part.to_local() if isinstance(part, DTensor) else part
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local.detach(), mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


@final
class _Meshes:
    """Ranks in another order than those of a training: FSDP2 cuts what tensor and expert ranks have left."""

    def __init__(self, ranks: Ranks) -> None:
        assert ranks.mesh is not None
        self._mesh, self._known = ranks.mesh, dict[str, DeviceMesh]()

    def of(self, axis: str, over: Sequence[str]) -> DeviceMesh:
        """This rank and those that differ from it in an axis, and then in others. Every rank must ask."""
        if not over:
            return self._mesh[axis]
        if axis not in self._known:
            names = self._mesh.mesh_dim_names or ()
            order = [*(name for name in names if name not in (axis, *over)), axis, *over]
            grid = self._mesh.mesh.permute(*map(names.index, order))
            self._known[axis] = DeviceMesh(self._mesh.device_type, grid, mesh_dim_names=tuple(order))
        return self._known[axis][axis, *over]


def _like(part: Tensor, local: Tensor) -> Tensor:
    """A part that lies as another does, with these numbers."""
    if not isinstance(part, DTensor):
        return local
    return DTensor.from_local(
        local, part.device_mesh, part.placements, run_check=False, shape=part.shape, stride=part.stride()
    )


def _put(model: PreTrainedModel, name: str, value: Tensor) -> None:
    owner, _, key = name.rpartition(".")
    setattr(model.get_submodule(owner), key, nn.Parameter(value.detach(), requires_grad=False))
