"""The processes of one training, each with a number: its rank.

All of them make the same calls in the same order, with the same whole batches, and get the same answers, to the bit; so
whatever follows from answers alone is decided alike on all of them. Between call and answer each computes its own rows.
Weights of a batch are those of the whole batch (docs/design.md, principle 5), so the gradients of parts add up, and are
never averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lowregret.engine.device import out_of_memory
from lowregret.engine.parallel.lead import Lead

R = TypeVar("R")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train with it; alone, every method does nothing."""

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    """Of one dimension; None when alone."""
    lead: Lead | None = field(default=None, compare=False)
    """Through which rank 0 has the others make its calls; None where each process makes them by itself."""

    @classmethod
    def of_group(cls, device: str, lead: Lead | None = None) -> Ranks:
        """Those of torch's default process group, when there is one; `device` is the type they compute on."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        count = dist.get_world_size()
        return cls(dist.get_rank(), count, init_device_mesh(device, (count,), mesh_dim_names=("shard",)), lead)

    @property
    def alone(self) -> bool:
        return self.count == 1

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all ranks in the place of each one's tensor."""
        if self.mesh is not None:
            dist.all_reduce(tensor, group=self.mesh.get_group())

    def agreed(self, run: Callable[[], R], device: torch.device) -> R:
        """What `run` gives, which exchanges nothing between ranks; MemoryError on all when one of them had no memory.

        Anything else that one alone meets ends the training: the others wait for it.
        """
        if self.mesh is None:
            return run()
        found: list[R] = []
        problem: Exception | None = None
        try:
            found.append(run())
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            problem = error
        lacking = torch.tensor(0 if problem is None else 1, device=device)
        self.add(lacking)
        if problem is not None:
            raise problem
        if int(lacking):
            raise MemoryError(f"{int(lacking)} of {self.count} devices had none left.")
        return found[0]

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.mesh is not None:
            dist.barrier(group=self.mesh.get_group())


ALONE = Ranks()
