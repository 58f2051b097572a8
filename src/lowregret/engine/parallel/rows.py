"""Rows of batches over ranks, and the answers of all rows to every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowregret.data.batches import Batch
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.result import PassResult

Run = Callable[[Mapping[str, Batch]], dict[str, PassResult]]
"""Computes batches, by the policies' names."""


@dataclass(frozen=True)
class RowSplit:
    """Which rank computes which rows of a batch."""

    rows: tuple[tuple[int, ...], ...]
    """Of each rank, in the batch's order."""
    together: bool = False
    """Whether one rank has all of them, and the others need none."""

    @classmethod
    def of(cls, batch: Batch, count: int) -> RowSplit:
        """In turn; rows of one prompt go together, for what they share is computed once."""
        prompts = range(batch.rows) if batch.prompts is None else batch.prompts.tolist()
        turn = {prompt: place % count for place, prompt in enumerate(dict.fromkeys(prompts))}
        owners = [turn[prompt] for prompt in prompts]
        return cls(tuple(tuple(row for row, owner in enumerate(owners) if owner == rank) for rank in range(count)))

    @classmethod
    def whole(cls, batch: Batch, owner: int, count: int) -> RowSplit:
        """All of them by one rank."""
        every = tuple(range(batch.rows))
        return cls(tuple(every if rank == owner else () for rank in range(count)), together=True)

    def own(self, batch: Batch, rank: int, *, equal: bool = False) -> Batch | None:
        """A rank's rows; with `equal` as many as the largest part has, else one at least. None where another has all.

        Where weights lie in parts every rank must take part in each pass of the base: what is missing is a row, the
        shortest, that weighs nothing.
        """
        mine = self.rows[rank]
        if self.together:
            return batch if mine else None
        least = max(map(len, self.rows)) if equal else 1
        chosen = batch.select([*mine, *[int(batch.used.argmin())] * (least - len(mine))])
        weights = chosen.weights.clone()
        weights[len(mine) :] = 0
        return replace(chosen, weights=weights)


@dataclass(frozen=True)
class Dealing:
    """Who computes what of the batches of a call, by the policies' names."""

    splits: Mapping[str, RowSplit]
    equal: bool
    """Whether parts are filled up to equal lengths: where each pass holds one row, and no pass may lack a rank."""

    @classmethod
    def of(
        cls, batches: Mapping[str, Batch], order: Sequence[str], count: int, *, apart: bool, equal: bool = False
    ) -> Dealing:
        """Whole policies to each of `count` ranks where they can be told `apart`, and no rank is left without one: as
        many to each, and neighbours in `order`, which share products, together. Else rows of each policy."""
        if not apart or len(order) < count:
            return cls({name: RowSplit.of(batch, count) for name, batch in batches.items()}, equal)
        owners = {name: place * count // len(order) for place, name in enumerate(order)}
        return cls({name: RowSplit.whole(batch, owners[name], count) for name, batch in batches.items()}, equal)

    @property
    def whole(self) -> bool:
        """Whether no policy's rows are on several ranks."""
        return all(split.together for split in self.splits.values())

    def rows(self, rank: int) -> dict[str, int]:
        """How many of each batch's a rank has."""
        return {name: len(split.rows[rank]) for name, split in self.splits.items()}

    def own(self, batches: Mapping[str, Batch], rank: int) -> dict[str, Batch]:
        """What a rank computes: see `RowSplit.own`."""
        parts = {name: self.splits[name].own(batch, rank, equal=self.equal) for name, batch in batches.items()}
        return {name: part for name, part in parts.items() if part is not None}


def over_ranks(
    ranks: Ranks,
    batches: Mapping[str, Batch],
    run: Run,
    dealing: Dealing,
    agreed: Callable[[Callable[[], dict[str, PassResult]]], dict[str, PassResult]],
) -> dict[str, PassResult]:
    """What `run` gives for whole batches, of which each rank runs its own part.

    `agreed` is asked for it: see `Ranks.agreed`.
    """
    if ranks.alone:
        return run(batches)
    if ranks.data.count == 1:
        return agreed(lambda: run(batches))
    own = dealing.own(batches, ranks.data.rank)
    return gather(ranks, dealing.splits, batches, agreed(lambda: run(own)))


def one_by_one(run: Run) -> Run:
    """The same, of passes of one row each, added up: for a base whose rows must be alone."""

    def run_rows(batches: Mapping[str, Batch]) -> dict[str, PassResult]:
        found: dict[str, PassResult] = {}
        for name, batch in batches.items():
            parts = [run({name: batch.select([row])})[name] for row in range(batch.rows)]
            loss = torch.stack([part.loss for part in parts]).sum()
            found[name] = PassResult(loss, torch.cat([part.logprobs for part in parts]), batch.supervised)
        return found

    return run_rows


def gather(
    ranks: Ranks, splits: Mapping[str, RowSplit], batches: Mapping[str, Batch], parts: Mapping[str, PassResult]
) -> dict[str, PassResult]:
    """The same of whole batches, by one exchange: each number but the losses is one rank's, so that sums are exact.

    `parts` are a rank's results; it has one at least.
    """
    some = next(iter(parts.values()))
    flat: list[Tensor] = []
    for name, batch in batches.items():
        dense = some.logprobs.new_zeros(batch.supervised.shape)
        loss = dense.new_zeros(1)
        if (found := parts.get(name)) is not None:
            rows = torch.tensor(splits[name].rows[ranks.data.rank], dtype=torch.int64)
            own = batch.supervised[rows]
            place = torch.zeros_like(batch.supervised)
            place[rows] = own
            dense[place.to(dense.device)] = found.logprobs[: int(own.sum())]
            loss = found.loss.reshape(1).to(dense.dtype)
        flat += [loss, dense.flatten()]
    everything = torch.cat(flat)
    ranks.add(everything)
    answers: dict[str, PassResult] = {}
    pieces = iter(everything.split([len(piece) for piece in flat]))
    for name, batch in batches.items():
        loss, dense = next(pieces), next(pieces).view(batch.supervised.shape)
        logprobs = dense[batch.supervised.to(dense.device)]
        answers[name] = PassResult(loss[0].to(some.loss.dtype), logprobs, batch.supervised)
    return answers
