"""Rows of a batch over ranks, and the answers of all rows to every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowregret.data.batches import Batch
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.result import PassResult


@dataclass(frozen=True)
class RowSplit:
    """Which rank computes which rows of a batch."""

    rows: tuple[tuple[int, ...], ...]
    """Of each rank, in the batch's order."""

    @classmethod
    def of(cls, batch: Batch, count: int) -> RowSplit:
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


def over_ranks(
    ranks: Ranks,
    batches: Mapping[str, Batch],
    run: Callable[[Mapping[str, Batch]], dict[str, PassResult]],
    device: torch.device,
    *,
    equal: bool,
) -> dict[str, PassResult]:
    """What `run` gives for whole batches, of which each rank runs its own rows; `equal` as `RowSplit.own` has it.

    MemoryError on all ranks when one of them had no memory.
    """
    if ranks.alone:
        return run(batches)
    data = ranks.data
    if data.count == 1:
        return ranks.agreed(lambda: run(batches), device)
    splits = {name: RowSplit.of(batch, data.count) for name, batch in batches.items()}
    own = {name: splits[name].own(batch, data.rank, equal=equal) for name, batch in batches.items()}
    found = ranks.agreed(lambda: run(own), device)
    return gather(ranks, splits, batches, found)


def gather(
    ranks: Ranks, splits: Mapping[str, RowSplit], batches: Mapping[str, Batch], parts: Mapping[str, PassResult]
) -> dict[str, PassResult]:
    """The same of whole batches, by one exchange: each number but the losses is one rank's, so that sums are exact."""
    flat: list[Tensor] = []
    for name, batch in batches.items():
        rows = torch.tensor(splits[name].rows[ranks.data.rank], dtype=torch.int64)
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
