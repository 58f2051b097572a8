"""A base's weights with what adapters add to them, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.export.adapter import FittedAdapter
from lowregret.export.merged.places import Part, Places
from lowregret.export.weights import Weights
from lowregret.lora.bank import updates
from lowregret.lora.init import initial
from lowregret.lora.weights import change

_BLOCK = 2**24
"""Numbers of a matrix that are worked on at a time."""


@dataclass(frozen=True)
class Added:
    """An adapter and what its update is multiplied by."""

    adapter: FittedAdapter
    weight: float = 1.0


class MergedWeights:
    """`Weights` of a base with adapters: W ← W + Σ weight · ΔW, in float32, for the writer to round once.

    ΔW is what the adapter alone adds to W: scale · B A, DoRA's renormed weight less W, and of a residual init
    (PiSSA, OLoRA) scale · (B A − B₀ A₀) with the start found again in W. A tied unembedding that is adapted becomes a
    tensor of its own, and `config` says so.

    Args:
        stored: the base's.
        places: where its matrices lie in them.
        added: the adapters, fitted to it; none leaves the weights as they are.
        dtype: in which they are to be written; None for that in which the base has each. A tensor that the base holds
            in more bits than the rest stays as it is.

    ModelError when a matrix that is adapted is not in the base's files exactly once, or is a tied unembedding that the
    base's code cannot have apart.
    """

    def __init__(
        self, stored: Weights, places: Places, added: Sequence[Added] = (), dtype: torch.dtype | None = None
    ) -> None:
        self.folder = stored.folder
        self._stored, self._places, self._added, self._dtype = stored, places, added, dtype
        adapted = {name for each in added for name in each.adapter.adapted}
        self._touched = {name for matrix in places.matrices if matrix.name in adapted for name, _ in places.of(matrix)}
        self._source: dict[str, str] = {}
        replaced = set()
        if places.tied is not None and places.tied[0] in self._touched:
            head, embedding = places.tied
            places.require_untied()
            self._source[head] = embedding
            replaced = {head, places.stored_as.get(head)}  # a copy that some files hold, too
        self.names: Sequence[str] = (*(name for name in stored.names if name not in replaced), *self._source)
        self.config: Mapping[str, Any] = _config(stored.config, dtype, untied=bool(self._source))
        self._counts: dict[str, tuple[int, int]] = {}
        self._common = _common_dtype(stored)

    @property
    def precision(self) -> torch.dtype:
        """In which most of it is to be written."""
        return self._dtype or self._common

    @property
    def updates_lost(self) -> float | None:
        """Of the entries that were read so far and that an adapter changes, the share which is the base's own value
        again once it is rounded to the type that it is written in; None before any."""
        updated = sum(updated for updated, _ in self._counts.values())
        return sum(lost for _, lost in self._counts.values()) / updated if updated else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return self._stored.shape(self._source.get(name, name))

    def dtype(self, name: str) -> torch.dtype:
        """In which it is to be written."""
        own = self._stored.dtype(self._source.get(name, name))
        kept = not own.is_floating_point or own.itemsize > self._common.itemsize
        return own if self._dtype is None or kept else self._dtype

    def own(self, parameter: str) -> Tensor | None:
        """The base's own value of a parameter of the model; None where it has none, or none that is stored as it is."""
        name = self._places.stored_as.get(parameter)
        if self._places.tied is not None and parameter == self._places.tied[0]:
            name = self._places.tied[1]
        return None if name is None else self._stored.read(name)

    @torch.no_grad()
    def read(self, name: str) -> Tensor:
        """A tensor on the CPU: as it is stored, or in float32 where an adapter has changed it."""
        stored = self._stored.read(self._source.get(name, name))
        if name not in self._touched:
            return stored
        whole = torch.empty(stored.shape, dtype=torch.float32)
        whole.copy_(stored)
        self._counts[name] = (0, 0)
        for part in self._places.parts[name]:
            adapters = [each for each in self._added if each.adapter.adapts(part.matrix.name)]
            if adapters:
                self._add(name, part, whole, adapters)
        return whole

    def _add(self, name: str, part: Part, whole: Tensor, adapters: Sequence[Added]) -> None:
        """To one matrix of a tensor, or to that of each expert, block by block."""
        turned = whole.transpose(-2, -1) if part.turned else whole
        inside = turned[..., part.rows, :]
        dtype = self.dtype(name)
        for expert, weight in enumerate(inside) if inside.ndim == 3 else [(part.expert, inside)]:
            factors = [_factors(each, part, expert, weight) for each in adapters]
            for rows in _blocks(weight):
                block = weight[rows]
                delta = sum(each.rows(block, rows) for each in factors)
                assert isinstance(delta, Tensor)
                merged = block + delta
                updated = delta != 0
                lost = updated & (merged.to(dtype) == block.to(dtype))
                before = self._counts[name]
                self._counts[name] = before[0] + int(updated.sum()), before[1] + int(lost.sum())
                block.copy_(merged)


@dataclass(frozen=True)
class _Factors:
    """One adapter's on one matrix."""

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None
    weight: float

    def rows(self, weight: Tensor, rows: slice) -> Tensor:
        """What it adds to some rows of the matrix."""
        magnitude = None if self.magnitude is None else self.magnitude[rows]
        delta = change(weight, self.a, self.b[rows], self.scale, magnitude)
        return delta if self.weight == 1 else delta * self.weight


def _factors(each: Added, part: Part, expert: int | None, weight: Tensor) -> _Factors:
    adapter, matrix = each.adapter, part.matrix
    if matrix.experts:
        assert expert is not None
        lora = adapter.experts.experts[matrix.name]
        return _Factors(lora.a[expert], lora.b[expert], lora.scale, None, each.weight)
    saved, method = adapter.plain[matrix.name], adapter.method
    a, b = saved.a, saved.b
    if method.residual:
        a, b = updates(a, b, *initial(method, matrix, weight, torch.Generator()))
    return _Factors(a, b, method.scale, saved.magnitude, each.weight)


def _blocks(weight: Tensor) -> Iterator[slice]:
    rows, columns = weight.shape
    step = max(1, _BLOCK // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _common_dtype(stored: Weights) -> torch.dtype:
    """The type that most of the base's numbers have."""
    counts: dict[torch.dtype, int] = {}
    for name in stored.names:
        dtype, numbers = stored.dtype(name), 1
        for size in stored.shape(name):
            numbers *= size
        if dtype.is_floating_point:
            counts[dtype] = counts.get(dtype, 0) + numbers
    if not counts:
        raise ModelError(f"{stored.folder}: holds no weights that are floating-point numbers. Give another base.")
    return max(counts, key=lambda dtype: counts[dtype])


def _config(config: Mapping[str, Any], dtype: torch.dtype | None, *, untied: bool) -> dict[str, Any]:
    """config.json of the merged model; of a base with a `text_config`, that as well."""
    found = dict(config)
    if isinstance(found.get("text_config"), Mapping):
        found["text_config"] = _within(found["text_config"], dtype, untied)
    found = _within(found, dtype, untied)
    if untied:
        found["tie_word_embeddings"] = False
    if dtype is not None and not {"dtype", "torch_dtype"} & found.keys():
        found["dtype"] = str(dtype).removeprefix("torch.")
    return found


def _within(config: Mapping[str, Any], dtype: torch.dtype | None, untied: bool) -> dict[str, Any]:
    found = dict(config)
    for key in ("dtype", "torch_dtype") if dtype is not None else ():
        if found.get(key) is not None:
            found[key] = str(dtype).removeprefix("torch.")
    if untied and "tie_word_embeddings" in found:
        found["tie_word_embeddings"] = False
    return found
