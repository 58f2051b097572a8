"""The processes of one training, each with a number: its rank.

All of them make the same calls in the same order, with the same whole batches, and get the same answers, to the bit; so
whatever follows from answers alone is decided alike on all of them. Between call and answer each computes its own rows.
Weights of a batch are those of the whole batch (docs/design.md, principle 5), so the gradients of parts add up, and are
never averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass(frozen=True)
class Ranks:
    """This process among those that train with it; alone, every method does nothing."""

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    """Of one dimension; None when alone."""

    @classmethod
    def of_group(cls, device: str) -> Ranks:
        """Those of torch's default process group, when there is one; `device` is the type they compute on."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        count = dist.get_world_size()
        return cls(dist.get_rank(), count, init_device_mesh(device, (count,), mesh_dim_names=("shard",)))

    @property
    def alone(self) -> bool:
        return self.count == 1

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all ranks in the place of each one's tensor."""
        if self.mesh is not None:
            dist.all_reduce(tensor, group=self.mesh.get_group())

    def any(self, here: bool) -> bool:
        """Whether it is so on some rank."""
        if self.mesh is None:
            return here
        flag = torch.tensor(int(here), device=self.mesh.device_type)
        self.add(flag)
        return bool(flag)

    def first(self, here: bool) -> bool:
        """What the first rank says."""
        return self.any(here and self.rank == 0)

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.mesh is not None:
            dist.barrier(group=self.mesh.get_group())


ALONE = Ranks()
