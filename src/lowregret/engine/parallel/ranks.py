"""The processes of one training, each with a number: its rank.

All of them make the same calls in the same order, with the same whole batches, and get the same answers, to the bit; so
whatever follows from answers alone is decided alike on all of them. Between call and answer each computes its own rows.
Weights of a batch are those of the whole batch (docs/design.md, principle 5), so the gradients of parts add up, and are
never averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lowregret.data.batches import Batch
from lowregret.engine.result import PassResult


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

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.mesh is not None:
            dist.barrier(group=self.mesh.get_group())

    def shard(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Cut every parameter into parts, one a rank (FSDP2): gathered layer by layer for a pass, gradients added up.

        What lies outside the layers is one group: a tied embedding may not be in two. Types are to be final: a
        parameter that is cast afterwards keeps a part of the old type.
        """
        if self.mesh is None:
            return
        for module in (*layers, model):
            fully_shard(module, mesh=self.mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)


ALONE = Ranks()


def put_back(model: nn.Module) -> None:
    """Let go of what a pass without gradients has gathered outside the layers: a later pass would take it as it is."""
    if isinstance(model, FSDPModule):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


@dataclass(frozen=True)
class Deal:
    """How the rows of a batch are dealt to ranks."""

    rows: tuple[tuple[int, ...], ...]
    """Of each rank, in the batch's order."""

    @classmethod
    def of(cls, batch: Batch, count: int) -> Deal:
        """In turn; rows of one prompt go together, for what they share is computed once."""
        prompts = range(batch.rows) if batch.prompts is None else batch.prompts.tolist()
        turn = {prompt: place % count for place, prompt in enumerate(dict.fromkeys(prompts))}
        owners = [turn[prompt] for prompt in prompts]
        return cls(tuple(tuple(row for row, owner in enumerate(owners) if owner == rank) for rank in range(count)))

    def own(self, batch: Batch, rank: int, *, equal: bool = False) -> Batch:
        """A rank's rows; with `equal` as many as the largest part has, else one at least.

        Where weights lie in parts every rank must take part in each pass of the base: what is missing is a row, the
        shortest, that weighs nothing.
        """
        mine = self.rows[rank]
        least = max(map(len, self.rows)) if equal else 1
        chosen = batch.select([*mine, *[int(batch.used.argmin())] * (least - len(mine))])
        weights = chosen.weights.clone()
        weights[len(mine) :] = 0
        return replace(chosen, weights=weights)


def joined(
    ranks: Ranks, deals: Mapping[str, Deal], batches: Mapping[str, Batch], parts: Mapping[str, PassResult]
) -> dict[str, PassResult]:
    """The same of whole batches, by one exchange: each number but the losses is one rank's, so that sums are exact."""
    flat: list[Tensor] = []
    for name, batch in batches.items():
        rows = torch.tensor(deals[name].rows[ranks.rank], dtype=torch.int64)
        own = batch.supervised[rows]
        found = parts[name].logprobs
        dense = found.new_zeros(batch.supervised.shape)
        place = torch.zeros_like(batch.supervised)
        place[rows] = own
        dense[place.to(dense.device)] = found[: int(own.sum())]
        flat += [parts[name].loss.reshape(1).to(dense.dtype), dense.flatten()]
    everything = torch.cat(flat)
    ranks.add(everything)
    answers: dict[str, PassResult] = {}
    pieces = iter(everything.split([len(piece) for piece in flat]))
    for name, batch in batches.items():
        loss, dense = next(pieces), next(pieces).view(batch.supervised.shape)
        logprobs = dense[batch.supervised.to(dense.device)]
        answers[name] = PassResult(loss[0].to(parts[name].loss.dtype), logprobs, batch.supervised)
    return answers
