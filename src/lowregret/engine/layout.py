"""The rows of all policies of a pass, laid out as the model takes them.

Without padding where the base allows it: rows lie end to end in one sequence [1, tokens], position ids start again at
each, and attention keeps them apart (`attention.py`). Else padded on the right to the longest, [rows, length]: right
padding lies behind every supervised position, which causal attention never sees, so no mask is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from lowregret.data.batches import Batch
from lowregret.engine.attention import Rows


@dataclass(frozen=True)
class Layout:
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
    """(number in its batch, tokens) of each row of each policy."""
    position_rows: tuple[tuple[tuple[int, int], ...], ...]
    """(number in its batch, supervised positions) of the same rows."""
    selected: Int64[Tensor, " positions"]
    """The supervised positions among the flattened tokens."""
    targets: Int64[Tensor, " positions"]
    weights: Float32[Tensor, " positions"]
    columns: tuple[dict[str, Float32[Tensor, " _"]], ...]
    """What else each policy's loss takes, of its own positions."""

    @property
    def parts(self) -> list[slice]:
        """Each policy's share of `selected`."""
        stops = list(accumulate(self.positions))
        return [slice(stop - count, stop) for stop, count in zip(stops, self.positions, strict=True)]


def lay_out(batches: Mapping[str, Batch], order: Sequence[str], device: torch.device, *, padded: bool) -> Layout:
    """The batches in the order named.

    Indices are found on the CPU, where batches are built: on a GPU, finding them would wait for the device.
    """
    chosen = [batches[name] for name in order]
    used = [batch.used for batch in chosen]
    longest = max(int(lengths.max()) for lengths in used)
    ids, places, supervised, lengths = [], [], [], []
    for batch, own in zip(chosen, used, strict=True):
        columns = torch.arange(longest)
        mask = torch.ones(batch.rows, longest, dtype=torch.bool) if padded else columns < own[:, None]
        ids.append(_wide(batch.input_ids, longest)[mask])
        places.append(columns.expand(batch.rows, -1)[mask])
        supervised.append(_wide(batch.supervised, longest)[mask])
        lengths += own.tolist()
    inputs: dict[str, Any] = {"input_ids": torch.cat(ids).to(device), "use_cache": False}
    if padded:
        inputs["input_ids"] = inputs["input_ids"].view(-1, longest)
    else:
        inputs["input_ids"] = inputs["input_ids"][None]
        inputs["position_ids"] = torch.cat(places)[None].to(device)
        inputs["rows"] = Rows.of(lengths, device)
    return Layout(
        inputs=inputs,
        names=tuple(order),
        tokens=tuple(len(own) for own in ids),
        positions=tuple(int(own.sum()) for own in supervised),
        token_rows=tuple(
            _numbered(batch, torch.full_like(own, longest) if padded else own)
            for batch, own in zip(chosen, used, strict=True)
        ),
        position_rows=tuple(_numbered(batch, batch.supervised.sum(1)) for batch in chosen),
        selected=torch.cat(supervised).nonzero()[:, 0].to(device),
        targets=torch.cat([batch.targets[batch.supervised] for batch in chosen]).to(device),
        weights=torch.cat([batch.weights[batch.supervised] for batch in chosen]).to(device),
        columns=tuple(
            {name: column[batch.supervised].to(device) for name, column in batch.columns.items()} for batch in chosen
        ),
    )


def _numbered(batch: Batch, counts: Int64[Tensor, " rows"]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(batch.numbers.tolist(), counts.tolist(), strict=True))


def _wide(x: Tensor, length: int) -> Tensor:
    """[rows, any] → [rows, length]: cut or filled with zeros (any token will do, and none is supervised)."""
    return torch.nn.functional.pad(x, (0, length - x.shape[1]))
