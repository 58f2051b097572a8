"""Keys and values of rows in slots: rows come and go, and no other row is copied.

A row's token t lies in column t of its slot. Slots of so many columns are one tensor, a pool, over which attention is
taken at once; a row that outgrows its pool moves to that of the next size, so that short rows never pay for long ones
and a row is copied a few times in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from lowregret.engine.sampling.pools import Pool, Slot, capacity

NAME = "lowregret_decode"
AFTER = "lowregret_read_on"


class SlotCache(Cache):
    """Keys and values of rows, each in a slot of its own."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.device = device
        self.rows: list[Slot] = []
        """In the order of the batch."""
        self.pools: dict[int, Pool] = {}
        """Those that hold a row, by their columns."""
        self.reading: Reading | None = None
        """What the pass reads; None when it adds one token to each row."""
        self.gather: Tensor | None = None
        """Where each row's output lies among those of all pools; None when they are in order."""
        super().__init__(layers=[SlotLayer(self) for _ in DynamicCache(config=config).layers])
        self.latest = self.slot_layers[0]
        """The layer that was written last."""

    @property
    def slot_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    def take(self, lengths: Sequence[int], room: int) -> list[Slot]:
        """Slots for prompts so long, and `room` more tokens before a row has to move."""
        columns = [capacity(length + room) for length in lengths]
        for each in set(columns):
            self._pool(each).reserve(columns.count(each))
        return [self._take(*pair) for pair in zip(lengths, columns, strict=True)]

    def _pool(self, columns: int) -> Pool:
        return self.pools.setdefault(columns, Pool(columns, self.device))

    def _take(self, length: int, columns: int) -> Slot:
        slot, stale = self._pool(columns).take(length)
        if stale > length:
            for layer in self.slot_layers:
                layer.clear(slot, length, stale)
        return slot

    def seat(self, rows: Sequence[Slot]) -> None:
        """Go on with these rows in this order: slots of others are free, pools without a row let go of."""
        kept = {id(slot) for slot in rows}
        for slot in self.rows:
            if id(slot) not in kept:
                slot.pool.free(slot)
        self.rows = list(rows)
        for pool in list(self.pools.values()):
            if not pool.rows:
                self._drop(pool)
            elif pool.sparse:
                self._tidy(pool)
        self._plan()

    def advance(self) -> None:
        """Give each row one token more, whose keys and values the next pass writes."""
        full = [slot for slot in self.rows if slot.length == slot.pool.columns]
        for slot in self.rows:
            slot.length += 1
        if full:
            self._move(full)
            return
        for pool in self.pools.values():
            pool.advance()

    def _move(self, full: Sequence[Slot]) -> None:
        """To pools of the next size."""
        for pool in {id(slot.pool): slot.pool for slot in full}.values():
            moved = [slot for slot in full if slot.pool is pool]
            places, columns = [slot.place for slot in moved], pool.columns
            larger = self._pool(capacity(columns + 1))
            larger.reserve(len(moved))
            for slot in moved:
                pool.free(slot)
                stale = larger.put(slot)
                for layer in self.slot_layers if stale > columns else ():
                    layer.clear(slot, columns, stale)
            for layer in self.slot_layers:
                layer.move(pool, places, larger, [slot.place for slot in moved], columns)
        self.seat(self.rows)

    def _drop(self, pool: Pool) -> None:
        del self.pools[pool.columns]
        for layer in self.slot_layers:
            layer.drop(pool)

    def _tidy(self, pool: Pool) -> None:
        """No free slots, the rows in the order of the batch."""
        held = [slot for slot in self.rows if slot.pool is pool]
        index = torch.tensor([slot.place for slot in held], device=self.device)
        used = max(slot.length for slot in held)
        for layer in self.slot_layers:
            layer.tidy(pool, index, used)
        pool.renumber(held)

    def _plan(self) -> None:
        found = [row for pool in self.pools.values() for row in pool.plan(self.rows)]
        order = [0] * len(self.rows)
        for place, row in enumerate(found):
            if row >= 0:
                order[row] = place
        self.gather = None if order == list(range(len(found))) else torch.tensor(order, device=self.device)


class Reading:
    """The prompts of a pass: where their tokens go, and what each goes on from."""

    def __init__(self, rows: Sequence[tuple[Slot, int, int]], device: torch.device) -> None:
        """`rows`: (slot, its first token's place in the pass, tokens that its slot has already)."""
        self.rows = rows
        spans = [(first, torch.arange(known, slot.length), slot) for slot, first, known in rows]
        by_pool: dict[int, list[tuple[int, Tensor, Slot]]] = {}
        for span in spans:
            by_pool.setdefault(span[2].pool.columns, []).append(span)
        self.writes = [
            (
                own[0][2].pool,
                torch.cat([first + torch.arange(len(span)) for first, span, _ in own]).to(device),
                torch.cat([torch.full_like(span, slot.place) for _, span, slot in own]).to(device),
                torch.cat([span for _, span, _ in own]).to(device),
            )
            for own in by_pool.values()
        ]
        """(pool, tokens of the pass, their places, their columns)."""


class SlotLayer(CacheLayerMixin):
    """One layer of a SlotCache: of each pool, keys and values [slots, kv_heads, columns, d].

    What no row has written is zero: it is hidden, but no number may be there that is none.
    """

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache
        self._stores: dict[int, tuple[Tensor, Tensor]] = {}
        self._empty: tuple[Tensor, Tensor] | None = None
        """Of no slot: heads, widths and type of what is stored."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Learn shapes and the type, that in which products are computed."""
        kind = key_states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key, value = (
            states.new_zeros((0, states.shape[1], 0, states.shape[3]), dtype=dtype)
            for states in (key_states, value_states)
        )
        self._empty = (key, value)
        self.is_initialized = True

    def store(self, pool: Pool) -> tuple[Tensor, Tensor]:
        """Keys and values of a pool, with as many slots as it has."""
        held = self._stores.get(pool.columns)
        if held is None or held[0].shape[0] < pool.slots:
            assert self._empty is not None
            made = tuple(
                _wider(states, pool, None if held is None else held[at]) for at, states in enumerate(self._empty)
            )
            held = self._stores[pool.columns] = (made[0], made[1])
        return held

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new states, of prompts [1, kv_heads, tokens, d] or one token of each row [rows, kv_heads, 1, d]; they
        come back as they are.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cache.latest = self
        if self.cache.reading is None:
            self.write(key_states[:, :, 0], value_states[:, :, 0])
            return key_states, value_states
        for pool, tokens, places, columns in self.cache.reading.writes:
            for store, states in zip(self.store(pool), (key_states, value_states), strict=True):
                written = states[0].transpose(0, 1).index_select(0, tokens).to(store.dtype)
                store.transpose(1, 2)[places, columns] = written
        return key_states, value_states

    def write(self, key: Float[Tensor, "rows kv_heads d"], value: Float[Tensor, "rows kv_heads d_value"]) -> None:
        """The newest token of each row."""
        for pool in self.cache.pools.values():
            for store, states in zip(self.store(pool), (key, value), strict=True):
                own = states if pool.members is None else states.index_select(0, pool.members)
                where = pool.newest(store.shape[1])
                store.view(-1, store.shape[3]).index_copy_(0, where, own.reshape(len(where), -1).to(store.dtype))

    def attend(
        self,
        query: Float[Tensor, "rows heads d"],
        scaling: float | None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Float[Tensor, "rows heads d_value"]:
        """Attention of each row's newest token over its row, no more than the last `window` of it."""
        found = []
        for pool in self.cache.pools.values():
            keys, values = self.store(pool)
            seen, hidden = pool.seen(window)
            own = query if pool.batch is None else query.index_select(0, pool.batch)
            keys, values = keys[: pool.used, :, seen], values[: pool.used, :, seen]
            found.append(attention(own, keys, values, hidden, scaling, softcap))
        joined = found[0] if len(found) == 1 else torch.cat(found)
        return joined if self.cache.gather is None else joined.index_select(0, self.cache.gather)

    def clear(self, slot: Slot, start: int, stop: int) -> None:
        """Zeros in columns that a former row has left."""
        for store in self._stores.get(slot.pool.columns, ()):
            if slot.place < store.shape[0]:
                store[slot.place, :, start:stop] = 0

    def move(self, old: Pool, places: Sequence[int], new: Pool, others: Sequence[int], columns: int) -> None:
        """Copy the rows at `places` of one pool to other places of another."""
        for source, target in zip(self.store(old), self.store(new), strict=True):
            index = torch.tensor(places, device=source.device)
            target[torch.tensor(others, device=source.device), :, :columns] = source[:, :, :columns].index_select(
                0, index
            )

    def tidy(self, pool: Pool, index: Int[Tensor, " rows"], used: int) -> None:
        """Keep the rows at `index` alone, whose columns in use are `used`."""
        made = []
        for store in self.store(pool):
            kept = store.new_zeros(len(index), *store.shape[1:])
            kept[:, :, :used] = store[:, :, :used].index_select(0, index)
            made.append(kept)
        self._stores[pool.columns] = (made[0], made[1])

    def drop(self, pool: Pool) -> None:
        """Let go of a pool's memory."""
        self._stores.pop(pool.columns, None)

    def read(self, slot: Slot, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, length, d] of the first tokens of a row: views."""
        keys, values = self.store(slot.pool)
        return keys[slot.place, :, :length], values[slot.place, :, :length]

    def fill(self, slot: Slot, states: tuple[Tensor, Tensor]) -> None:
        """Write what `read` gave of another row as the first tokens of this one."""
        if not self.is_initialized:
            self.lazy_initialization(states[0][None], states[1][None])
        for store, own in zip(self.store(slot.pool), states, strict=True):
            store[slot.place, :, : own.shape[1]] = own

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What transformers would need to build a mask."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens before this pass, of the longest row."""
        if self.cache.reading is not None:
            return max(known for _, _, known in self.cache.reading.rows)
        return max(slot.length for slot in self.cache.rows) - 1

    def get_max_length(self) -> int:
        """There is no bound."""
        return -1


def _wider(empty: Tensor, pool: Pool, held: Tensor | None) -> Tensor:
    """Zeros for all slots of a pool, but for those that are there. Memory that is never used is never touched."""
    made = empty.new_zeros(pool.slots, empty.shape[1], pool.columns, empty.shape[3])
    if held is not None:
        made[: held.shape[0], :, : pool.longest] = held[:, :, : pool.longest]
    return made


def attention(
    query: Float[Tensor, "rows heads d"],
    key: Float[Tensor, "rows kv_heads columns d"],
    value: Float[Tensor, "rows kv_heads columns d_value"],
    hidden: Float[Tensor, "rows columns"] | None,
    scaling: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "rows heads d_value"]:
    """Attention of one query a row; `hidden` is −inf where a row has no key, 0 elsewhere.

    The query heads that share a key/value head are one matrix: keys and values are read once, as they lie in the cache.
    """
    rows, heads, width = query.shape
    columns, kv_heads = key.shape[2], key.shape[1]
    query = query.reshape(rows * kv_heads, heads // kv_heads, width) * (width**-0.5 if scaling is None else scaling)
    scores = torch.bmm(query, key.flatten(0, 1).transpose(1, 2))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if hidden is not None:
        scores.view(rows, heads, columns).add_(hidden[:, None])
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return torch.bmm(weights.to(value.dtype), value.flatten(0, 1)).view(rows, heads, -1)


def decode_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "rows heads 1 d"],
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cells: SlotCache,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "rows 1 heads d_value"], None]:
    """`SlotLayer.attend` of the layer that was just written, in the form in which transformers calls attention."""
    return cells.latest.attend(query[:, :, 0], scaling, sliding_window, softcap)[:, None], None


def reading_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "one heads tokens d"],
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cells: SlotCache,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "one tokens heads d_value"], None]:
    """Attention of prompts that go on from tokens which their slots have already, row by row."""
    reading = cells.reading
    assert reading is not None
    found = []
    for slot, first, known in reading.rows:
        keys, values = (states[None].to(query.dtype) for states in cells.latest.read(slot, slot.length))
        own = query[:, :, first : first + slot.length - known]
        column = torch.arange(slot.length, device=query.device)
        newest = column[known:, None]
        sees = column <= newest
        if sliding_window is not None:
            sees &= column > newest - sliding_window
        found.append(
            torch.nn.functional.scaled_dot_product_attention(
                own, keys, values, sees, scale=scaling, enable_gqa=own.shape[1] != keys.shape[1]
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, decode_attention)
AttentionInterface.register(AFTER, reading_attention)
