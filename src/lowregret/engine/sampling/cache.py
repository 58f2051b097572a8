"""A key/value cache that is written in place, and attention over it: one token a row and step.

Rows are aligned at their newest token: all write the same column, a sliding window is a slice, and what stands before a
shorter prompt is hidden by a mask that is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

NAME = "lowregret_decode"
ROOM = 256
"""Columns for new tokens that are allocated at a time: `max_tokens` is often far more than is drawn."""


class RowCache(Cache):
    """Keys and values of rows that are aligned at their newest token."""

    def __init__(self, config: Any, lengths: Sequence[int], device: torch.device) -> None:
        """For prompts of these lengths, one a row."""
        self.lengths = list(lengths)
        self.columns = max(lengths, default=0)
        """Columns in use."""
        self.reading = True
        self.tokens = self.rows = self.places = torch.empty(0, dtype=torch.int64, device=device)
        self.hidden: Tensor | None = None
        """0 where a row has a token, −inf before its first one: [rows, columns and more]; None when all are as long."""
        super().__init__(layers=[RowLayer(self) for _ in DynamicCache(config=config).layers])

    def expect(self, rows: Sequence[tuple[int, int]]) -> None:
        """The next pass reads the prompts of these rows: (row, its first token's place in the pass)."""
        device = self.rows.device
        spans = [torch.arange(self.lengths[row]) for row, _ in rows]
        pairs = list(zip(rows, spans, strict=True))
        self.tokens = torch.cat([first + span for (_, first), span in pairs]).to(device)
        self.rows = torch.cat([torch.full_like(span, row) for (row, _), span in pairs]).to(device)
        self.places = torch.cat([self.columns - len(span) + span for _, span in pairs]).to(device)

    def filled(self) -> None:
        """All prompts are read: from now on each pass adds one token to each row."""
        self.reading = False
        self._hide()

    def advance(self) -> None:
        """Make the next column the one that is written."""
        self.columns += 1
        self.lengths = [length + 1 for length in self.lengths]
        if self.hidden is not None and self.columns > self.hidden.shape[1]:
            self.hidden = torch.nn.functional.pad(self.hidden, (0, ROOM))

    def keep(self, kept: Sequence[int]) -> None:
        """Drop the other rows, and the columns that only they needed."""
        self.lengths = [self.lengths[row] for row in kept]
        rows = torch.tensor(kept, device=self.rows.device)
        unused = self.columns - max(self.lengths)
        for layer in self.layers:
            assert isinstance(layer, RowLayer)
            layer.move(rows, unused)
        self.columns -= unused
        self._hide()

    def join(self, others: RowCache, order: Int[Tensor, " rows"]) -> None:
        """Take the rows of another cache in, aligned like the own at their newest token, and order them all."""
        columns = max(self.columns, others.columns)
        for layer, other in zip(self.layers, others.layers, strict=True):
            assert isinstance(layer, RowLayer)
            assert isinstance(other, RowLayer)
            layer.join(other, columns, order)
        lengths = self.lengths + others.lengths
        self.lengths = [lengths[row] for row in order.tolist()]
        self.columns = columns
        self._hide()

    def _hide(self) -> None:
        before = self.columns - torch.tensor(self.lengths)
        columns = torch.arange(self.columns + ROOM)
        hidden = torch.zeros(len(self.lengths), len(columns)).masked_fill_(columns < before[:, None], -torch.inf)
        self.hidden = hidden.to(self.rows.device) if bool(before.any()) else None


class RowLayer(CacheLayerMixin):
    """One layer of a RowCache: keys and values [rows, kv_heads, room, d].

    Columns in use are zero where a row has no token: hidden, but no number may be there that is none.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, cache: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, in the type in which products are computed."""
        kind = key_states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        rows, columns = len(self.cache.lengths), self.cache.columns
        self.keys, self.values = (
            _with_room(states.new_zeros((), dtype=dtype).expand(rows, states.shape[1], columns, states.shape[3]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new states. Prompts [1, kv_heads, tokens, d] come back as they are; for one token of each row [rows,
        kv_heads, 1, d], all that is in use comes back.
        """
        cache = self.cache
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if cache.reading:
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                written = states[0].transpose(0, 1).index_select(0, cache.tokens).to(store.dtype)
                store.transpose(1, 2)[cache.rows, cache.places] = written
            return key_states, value_states
        if cache.columns > self.keys.shape[2]:
            self.keys, self.values = _with_room(self.keys), _with_room(self.values)
        self.keys[:, :, cache.columns - 1] = key_states[:, :, 0]
        self.values[:, :, cache.columns - 1] = value_states[:, :, 0]
        return self.keys[:, :, : cache.columns], self.values[:, :, : cache.columns]

    def move(self, rows: Int[Tensor, " kept"], unused: int) -> None:
        """Keep these rows, without their first `unused` columns."""
        used = slice(unused, self.cache.columns)
        self.keys = _with_room(self.keys[:, :, used].index_select(0, rows))
        self.values = _with_room(self.values[:, :, used].index_select(0, rows))

    def join(self, other: RowLayer, columns: int, order: Int[Tensor, " rows"]) -> None:
        """Rows of both, in order, aligned at the end of so many columns; zeros before."""

        def both(own: Tensor, others: Tensor) -> Tensor:
            parts = [
                torch.nn.functional.pad(states[:, :, :used], (0, 0, columns - used, 0))
                for states, used in ((own, self.cache.columns), (others, other.cache.columns))
            ]
            return _with_room(torch.cat(parts).index_select(0, order))

        self.keys, self.values = both(self.keys, other.keys), both(self.values, other.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What transformers would need to build a mask."""
        return self.cache.columns, 0

    def get_seq_length(self) -> int:
        """Tokens before this pass, of the longest row."""
        return 0 if self.cache.reading else self.cache.columns - 1

    def get_max_length(self) -> int:
        """There is no bound."""
        return -1


def _with_room(states: Float[Tensor, "rows kv_heads columns d"]) -> Float[Tensor, "rows kv_heads more d"]:
    """A copy that has ROOM more columns. Those are not written: memory that is never used is never touched."""
    rows, heads, columns, width = states.shape
    wider = states.new_empty(rows, heads, columns + ROOM, width)
    wider[:, :, :columns] = states
    return wider


def decode_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "rows heads 1 d"],
    key: Float[Tensor, "rows kv_heads columns d"],
    value: Float[Tensor, "rows kv_heads columns d_value"],
    attention_mask: Tensor | None,
    *,
    hidden: Float[Tensor, "rows more_columns"] | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "rows 1 heads d_value"], None]:
    """Attention of each row's newest token over its row, in the form in which transformers calls it.

    The query heads that share a key/value head are one matrix: keys and values are read once, as they lie in the cache.
    """
    rows, heads, _, width = query.shape
    columns, kv_heads = key.shape[2], key.shape[1]
    seen = columns if sliding_window is None else min(columns, sliding_window)
    key, value = key[:, :, columns - seen :], value[:, :, columns - seen :]
    query = query.reshape(rows * kv_heads, heads // kv_heads, width) * (width**-0.5 if scaling is None else scaling)
    scores = torch.bmm(query, key.flatten(0, 1).transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if hidden is not None:
        scores.view(rows, heads, seen).add_(hidden[:, None, columns - seen : columns])
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return torch.bmm(weights.to(value.dtype), value.flatten(0, 1)).view(rows, 1, heads, -1), None


AttentionInterface.register(NAME, decode_attention)
