"""The rows of all policies of a pass, laid out as the model takes them.

Without padding where the base allows it: rows lie end to end in one sequence [1, tokens], position ids start again at
each, and attention keeps them apart (`attention.py`). Positions that rows of one prompt share lie there once, before
the first of these rows, as a row from which the others go on. Else padded on the right to the longest, [rows, length]:
right padding lies behind every supervised position, which causal attention never sees, so no mask is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from lowregret.data.batches import Batch
from lowregret.engine.forward.attention import VarlenRows
from lowregret.lora.kernels import moved_together


@dataclass(frozen=True)
class PassLayout:
    """One pass. Tokens are positions that are computed; positions are the supervised among them."""

    inputs: dict[str, Any]
    """What the model is called with."""
    names: tuple[str, ...]
    """The policies, in the order of their tokens."""
    tokens: tuple[int, ...]
    """How many tokens each has."""
    positions: tuple[int, ...]
    """How many supervised positions each has."""
    token_rows: tuple[tuple[tuple[int, int], ...], ...]
    """(number in its batch, tokens) of each row of each policy; what rows share goes by the first of them."""
    position_rows: tuple[tuple[tuple[int, int], ...], ...]
    """(number in its batch, supervised positions) of the same rows."""
    selected: Int64[Tensor, " positions"]
    """The supervised positions among the flattened tokens, each as often as it has targets."""
    targets: Int64[Tensor, " positions"]
    weights: Float32[Tensor, " positions"]
    lengths: Int64[Tensor, "rows tokens"]
    """Tokens of the row that each position belongs to; one number a row where rows are padded."""
    columns: tuple[dict[str, Float32[Tensor, " _"]], ...]
    """What else each policy's loss takes, of its own positions."""

    def tokens_of(self, name: str, rows: int | None) -> int:
        """Tokens of a policy's first rows, None for all of them; prompts in common are not told apart."""
        return sum(tokens for _, tokens in self.token_rows[self.names.index(name)][:rows])

    @property
    def parts(self) -> list[slice]:
        """Each policy's share of `selected`."""
        stops = list(accumulate(self.positions))
        return [slice(stop - count, stop) for stop, count in zip(stops, self.positions, strict=True)]


def lay_out(
    batches: Mapping[str, Batch],
    order: Sequence[str],
    device: torch.device,
    *,
    padded: bool,
    positions: bool = False,
    varlen: bool = False,
) -> PassLayout:
    """The batches in the order named; `positions`: padded rows say theirs too, for a base that tells rows apart.

    Indices are found on the CPU, where batches are built, and all go to the device at once: on a GPU, finding them
    would wait for the device. `varlen`: attention takes rows end to end as they lie.
    """
    chosen = [batches[name] for name in order]
    longest = max(int(batch.used.max()) for batch in chosen)
    every = [_pieces(replace(batch, prompts=None) if padded else batch) for batch in chosen]
    ids, places, supervised, lengths = [], [], [], []
    for batch, pieces in zip(chosen, every, strict=True):
        columns = torch.arange(longest).expand(len(pieces.rows), -1)
        stops = torch.full_like(pieces.stops, longest) if padded else pieces.stops
        mask = (columns >= pieces.starts[:, None]) & (columns < stops[:, None])
        ids.append(_wide(batch.input_ids, longest)[pieces.rows][mask])
        places.append(columns[mask])
        supervised.append(_wide(batch.supervised, longest)[pieces.rows][mask])
        lengths.append(batch.lengths[pieces.rows][:, None].expand_as(mask)[mask])
    shape = (-1, longest) if padded else (1, -1)
    inputs: dict[str, Any] = {"input_ids": torch.cat(ids).view(shape), "use_cache": False}
    if not padded or positions:
        inputs["position_ids"] = torch.cat(places).view(shape)
    if not padded:
        inputs["rows"] = _rows(every, device, varlen)
    laid = PassLayout(
        inputs=inputs,
        names=tuple(order),
        tokens=tuple(len(own) for own in ids),
        positions=tuple(int(own.sum()) * batch.each for own, batch in zip(supervised, chosen, strict=True)),
        token_rows=tuple(
            _numbered(batch.numbers[pieces.rows], torch.full_like(pieces.rows, longest) if padded else pieces.lengths)
            for batch, pieces in zip(chosen, every, strict=True)
        ),
        position_rows=tuple(_numbered(batch.numbers, batch.supervised.sum(1) * batch.each) for batch in chosen),
        selected=_selected(supervised, [batch.each for batch in chosen]),
        targets=torch.cat([batch.targets[batch.supervised].flatten() for batch in chosen]),
        weights=torch.cat([batch.weights[batch.supervised].flatten() for batch in chosen]),
        lengths=torch.cat(lengths).view(shape),
        columns=tuple(
            {name: column[batch.supervised].flatten() for name, column in batch.columns.items()} for batch in chosen
        ),
    )
    return _sent(laid, device)


def _selected(supervised: list[Tensor], each: Sequence[int]) -> Int64[Tensor, " positions"]:
    """Where supervised positions lie among the tokens of all policies: each as often as it has targets."""
    found = torch.cat(supervised).nonzero()[:, 0]
    if set(each) == {1}:
        return found
    counts = [torch.full((int(own.sum()),), times) for own, times in zip(supervised, each, strict=True)]
    return found.repeat_interleave(torch.cat(counts))


def _sent(layout: PassLayout, device: torch.device) -> PassLayout:
    """The same on a device, in one transfer."""
    inputs = {name: each for name, each in layout.inputs.items() if isinstance(each, Tensor)}
    columns = [column for each in layout.columns for column in each.values()]
    own = [layout.selected, layout.targets, layout.weights, layout.lengths]
    selected, targets, weights, lengths, *others = moved_together([*own, *inputs.values(), *columns], device)
    there = iter(others)
    return replace(
        layout,
        inputs={**layout.inputs, **dict(zip(inputs, there, strict=False))},
        selected=selected,
        targets=targets,
        weights=weights,
        lengths=lengths,
        columns=tuple(dict(zip(each, there, strict=False)) for each in layout.columns),
    )


@dataclass(frozen=True)
class _Pieces:
    """What is computed of a batch, in order: the positions from `starts` to `stops` of rows, all [pieces]."""

    rows: Int64[Tensor, " pieces"]
    starts: Int64[Tensor, " pieces"]
    stops: Int64[Tensor, " pieces"]
    after: Int64[Tensor, " pieces"]
    """The piece that holds what comes before `starts`; -1 where nothing does."""

    @property
    def lengths(self) -> Int64[Tensor, " pieces"]:
        return self.stops - self.starts


def _pieces(batch: Batch) -> _Pieces:
    """Each row up to its last supervised position; what it shares as a piece before the first that shares it."""
    rows = torch.arange(batch.rows)
    if batch.prompts is None:
        return _Pieces(rows, torch.zeros_like(rows), batch.used, torch.full_like(rows, -1))
    shared, leaders = batch.shared, batch.leaders
    leads = (shared > 0) & (leaders == rows)
    place = rows + leads.cumsum(0)  # of each row's own piece; what it leads with lies just before
    before = torch.where(leads, place - 1, -1)
    order = torch.cat([rows[leads], rows])[torch.cat([before[leads], place]).argsort()]
    own = torch.zeros(len(order), dtype=torch.bool).index_fill_(0, place, True)
    return _Pieces(
        rows=order,
        starts=torch.where(own, shared[order], 0),
        stops=torch.where(own, batch.used[order], shared[order]),
        after=torch.where(own & (shared[order] > 0), before[leaders[order]], -1),
    )


def _rows(every: Sequence[_Pieces], device: torch.device, varlen: bool) -> VarlenRows:
    """Where all pieces lie, those of one batch behind those of another."""
    lengths: list[int] = []
    after: list[int | None] = []
    for pieces in every:
        first = len(lengths)
        lengths += pieces.lengths.tolist()
        after += [None if piece < 0 else first + piece for piece in pieces.after.tolist()]
    return VarlenRows.of(lengths, device, after, varlen=varlen)


def _numbered(numbers: Int64[Tensor, " rows"], counts: Int64[Tensor, " rows"]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(numbers.tolist(), counts.tolist(), strict=True))


def _wide(x: Tensor, length: int) -> Tensor:
    """[rows, any] → [rows, length]: cut or filled with zeros (any token will do, and none is supervised)."""
    return torch.nn.functional.pad(x, (0, length - x.shape[1]))
