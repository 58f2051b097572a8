"""The processes of one training, each with a number: its rank.

All of them make the same calls in the same order, with the same whole batches, and get the same answers, to the bit; so
whatever follows from answers alone is decided alike on all of them. Between call and answer each computes its own rows,
or with others its own part of their matrices. Weights of a batch are those of the whole batch (docs/design.md,
principle 5), so the gradients of parts add up, and are never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lowregret.engine.device import out_of_memory
from lowregret.engine.parallel.lead import Lead
from lowregret.errors import LowregretError, RanksError, SpecError

R = TypeVar("R")

_DIMENSIONS = ("replicate", "shard", "expert", "tensor")
"""Of a mesh, the outermost first: ranks that exchange most are neighbours."""


@dataclass(frozen=True)
class Axis:
    """Some processes of a training, this one among them: those that differ in certain dimensions of their mesh."""

    rank: int = 0
    """The place of this one."""
    count: int = 1
    group: dist.ProcessGroup | None = None
    """None of all there are, and of one alone."""

    def add(self, tensor: Tensor) -> None:
        """Put the sum over these processes in the place of each one's contiguous tensor."""
        if self.count > 1:
            dist.all_reduce(tensor, group=self.group)

    def largest(self, tensor: Tensor) -> None:
        """The same of the largest numbers."""
        if self.count > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)

    def first(self, tensor: Tensor) -> Tensor:
        """The first one's numbers, in the place of each one's tensor where that is contiguous."""
        if self.count > 1:
            tensor = tensor.contiguous()
            self.told(tensor, 0)
        return tensor

    def told(self, tensor: Tensor, by: int) -> None:
        """Put one's numbers, of that place, in each one's contiguous tensor."""
        if self.count > 1 and tensor.numel():
            dist.broadcast(tensor, group=self.group, group_src=by)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Everybody's tensor, all of one shape, in order."""
        if self.count == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(found, tensor, group=self.group)
        return found


@dataclass(frozen=True)
class Ranks:
    """This process among those that train with it; alone, every method does nothing."""

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    """Of all that have more than one rank of replicate, shard, expert and tensor, and always of shard; None alone."""
    lead: Lead | None = field(default=None, compare=False)
    """Through which rank 0 has the others make its calls; None where each process makes them by itself."""
    data: Axis = Axis()
    """Those that compute other rows; ranks that differ in tensor alone compute the same."""
    tensor: Axis = Axis()
    """Those that hold the other parts of each matrix."""
    expert: Axis = Axis()
    """Those that hold the other experts of each mixture."""
    replicate: int = 1
    """Ranks that hold the same parts of everything."""
    shards: Axis = Axis()
    """Those that hold the other parts of what FSDP2 cuts."""
    replicas: Axis = Axis()
    """Those that compute other rows with the same experts."""

    @classmethod
    def of_group(
        cls, device: str, lead: Lead | None = None, *, replicate: int = 1, expert: int = 1, tensor: int = 1
    ) -> Ranks:
        """Those of torch's default process group, when there is one; `device` is the type they compute on.

        What is left of the group's number is `shard`. SpecError when the dimensions do not divide it.
        """
        count = dist.get_world_size() if dist.is_initialized() else 1
        sizes = [replicate, 1, expert, tensor]
        if count % math.prod(sizes):
            raise SpecError(
                f"a mesh of replicate={replicate}, expert={expert} and tensor={tensor} takes a multiple of "
                f"{math.prod(sizes)} devices, and there are {count}: ask for numbers whose product divides {count}."
            )
        sizes[1] = count // math.prod(sizes)
        if count == 1:
            return cls()
        kept = [(name, size) for name, size in zip(_DIMENSIONS, sizes, strict=True) if size > 1 or name == "shard"]
        mesh = init_device_mesh(device, tuple(size for _, size in kept), mesh_dim_names=tuple(name for name, _ in kept))
        return cls(
            dist.get_rank(),
            count,
            mesh,
            lead,
            replicate=replicate,
            data=_axis(sizes, ("replicate", "shard", "expert")),
            tensor=_axis(sizes, ("tensor",)),
            expert=_axis(sizes, ("expert",)),
            shards=_axis(sizes, ("shard",)),
            replicas=_axis(sizes, ("replicate", "shard")),
        )

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def sharded(self) -> DeviceMesh | None:
        """Those over which FSDP2 cuts weights, and before it those that have the same parts; None alone."""
        if self.mesh is None or len(self.mesh.mesh_dim_names or ()) == 1:
            return self.mesh
        names = tuple(name for name in ("replicate", "shard") if name in (self.mesh.mesh_dim_names or ()))
        return self.mesh[names]

    @property
    def everybody(self) -> Axis:
        """All of them."""
        return Axis(self.rank, self.count)

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all that compute other rows in the place of each one's tensor."""
        self.data.add(tensor)

    def agreed(self, run: Callable[[], R], device: torch.device, *, exchanges: bool = False) -> R:
        """What `run` gives. MemoryError on all ranks when one of them had no memory, and RanksError on the others for
        anything else that one meets.

        Where `run` itself `exchanges`, what one meets in the middle of it ends the training (`exchanging`).
        """
        if self.mesh is None:
            return run()
        found: list[R] = []
        problem: Exception | None = None
        try:
            found.append(run())
        except Exception as error:
            if exchanges:
                self._leave(error)
            problem = error
        # One number: those that failed are counted above those without memory.
        step = 0 if problem is None else 1 if out_of_memory(problem) else self.count + 1
        total = torch.tensor(step, device=device)
        self.everybody.add(total)
        if problem is not None:
            raise problem
        failed, without = divmod(int(total), self.count + 1)
        if failed:
            raise RanksError("another rank met what this one did not.")
        if without:
            raise MemoryError(f"{without} of {self.count} devices had none left.")
        return found[0]

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Around what the ranks wait for one another in. What one meets there ends the training, since no call can tell
        the others (`Lead.leave`); what is refused by name is refused before."""
        try:
            yield
        except Exception as error:
            self._leave(error)
            raise

    def _leave(self, error: Exception) -> None:
        if self.lead is not None and not isinstance(error, LowregretError):
            self.lead.leave(error)

    def any(self, here: bool) -> bool:
        """Whether it is so on some rank."""
        if self.mesh is None:
            return here
        flag = torch.tensor(int(here), device=self.mesh.device_type)
        self.everybody.add(flag)
        return bool(flag)

    def first(self, here: bool) -> bool:
        """What the first rank says."""
        return self.any(here and self.rank == 0)

    @contextmanager
    def first_alone(self, what: object) -> Iterator[None]:
        """Around what all take part in and rank 0 alone leaves behind: RanksError on the others when it could not."""
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        failed = self.any(problem is not None)
        if problem is not None:
            raise problem
        if failed:
            raise RanksError(f"{what}: rank 0 could not write it.")


def _axis(sizes: Sequence[int], names: Sequence[str]) -> Axis:
    """This process and those that differ from it in these dimensions; all must make the same."""
    across = [place for place, name in enumerate(_DIMENSIONS) if name in names]
    count, everybody = math.prod(sizes[place] for place in across), math.prod(sizes)
    along = [place for place in range(len(sizes)) if place not in across]
    grid = torch.arange(everybody).view(*sizes).permute(*along, *across).reshape(-1, count)
    (own,) = (row for row in grid.tolist() if dist.get_rank() in row)
    if count in (1, everybody):
        return Axis(own.index(dist.get_rank()), count)
    group, _ = dist.new_subgroups_by_enumeration(grid.tolist())
    return Axis(own.index(dist.get_rank()), count, group)


ALONE = Ranks()
