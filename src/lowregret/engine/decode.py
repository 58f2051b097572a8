"""Running a base token by token: a key/value cache that is written in place, and attention over it.

Prompts are read end to end, without padding and each only once; after that every row adds one token a step. In the
cache rows are aligned at their newest token: all write the same column, a sliding window is a slice, and what stands
before a shorter prompt is hidden by a mask that is made once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from lowregret.engine.attention import Rows, attending, configurations
from lowregret.errors import SpecError

NAME = "lowregret_decode"
CPU_PREFILL_TOKENS = 1024
"""Prompt tokens read in one pass on a CPU. Larger passes are slower there: activations leave the cache."""
PREFILL_TOKENS = 16384
"""The same on other devices: bounds the memory for activations; where larger passes stop paying is not measured."""
ROOM = 256
"""Columns for new tokens that are allocated at a time: `max_tokens` is often far more than is drawn."""

Prompts = Mapping[str, Sequence[Sequence[int]]]


class Forward(Protocol):
    """Runs the base with its policies, as the engine knows how to."""

    def __call__(
        self, tokens: Mapping[str, int], positions: Mapping[str, int], selected: Tensor | None, **inputs: Any
    ) -> Tensor:
        """Logits [positions, vocabulary].

        `tokens` and `positions` say how many tokens, and how many wanted positions, are each policy's, in the order in
        which they lie in the flattened inputs; `selected` is where the wanted ones lie, None when all are wanted.
        """


class Decoder(ABC):
    """Rows of prompts that grow by one token a step."""

    counts: dict[str, int]
    """Rows of each policy, in order."""

    @abstractmethod
    def start(self) -> Float[Tensor, "rows vocabulary"]:
        """Read the prompts; logits of each one's next token."""

    @abstractmethod
    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""

    @abstractmethod
    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Go on with these rows only; False when it cannot and goes on with all."""

    @abstractmethod
    def join(self, prompts: Prompts) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]] | None:
        """Take new rows in; None when it cannot.

        `prompts` names all policies in order. Returns the logits of the new rows' first tokens and the order of all
        rows from now on, as indices into the old rows followed by the new: a policy's rows stay together.
        """


def decoder(model: PreTrainedModel, prompts: Prompts, pad_id: int, forward: Forward, *, end_to_end: bool) -> Decoder:
    """The fast one, unless the base takes no rows that lie end to end or keeps other states than keys and values.

    Raises SpecError for a prompt without tokens.
    """
    if not all(prompt for group in prompts.values() for prompt in group):
        raise SpecError("a prompt has no token: give it at least the one that begins a text.")
    fast = end_to_end and _keeps_keys_and_values(model)
    return CachedDecoder(model, prompts, forward) if fast else PaddedDecoder(model, prompts, pad_id, forward)


@final
class CachedDecoder(Decoder):
    """Prompts without padding, a cache written in place, finished rows dropped."""

    def __init__(self, model: PreTrainedModel, prompts: Prompts, forward: Forward) -> None:
        self.counts = {name: len(group) for name, group in prompts.items()}
        self._model, self._forward = model, forward
        self._configs = configurations(model)
        self._device = next(model.parameters()).device
        # A prompt that a policy continues several times is read once.
        asked = [(name, tuple(prompt)) for name, group in prompts.items() for prompt in group]
        self._read = list(dict.fromkeys(asked))
        place = {prompt: index for index, prompt in enumerate(self._read)}
        self._source = [place[prompt] for prompt in asked]
        lengths = [len(prompt) for _, prompt in asked]
        self._cache = RowCache(model.config, lengths, self._device)
        self._positions = torch.tensor(lengths, device=self._device)[:, None]

    def start(self) -> Float[Tensor, "rows vocabulary"]:
        """Read the prompts; logits of each one's next token."""
        most = CPU_PREFILL_TOKENS if self._device.type == "cpu" else PREFILL_TOKENS
        found, first = [], 0
        while first < len(self._read):
            last, tokens = first + 1, len(self._read[first][1])
            while last < len(self._read) and tokens + len(self._read[last][1]) <= most:
                tokens += len(self._read[last][1])
                last += 1
            found.append(self._prefill(first, last))
            first = last
        self._cache.filled()
        return torch.cat(found).index_select(0, torch.tensor(self._source, device=self._device))

    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""
        self._cache.advance()
        with attending(self._configs, NAME):
            logits = self._forward(
                self.counts,
                self.counts,
                None,
                input_ids=chosen[:, None],
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                hidden=self._cache.hidden,
            )
        self._positions = self._positions + 1
        return logits

    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Go on with these rows only."""
        rows = torch.tensor(kept, device=self._device)
        self._cache.keep(kept)
        self._positions = self._positions.index_select(0, rows)
        self.counts = counts
        return True

    def join(self, prompts: Prompts) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]]:
        """Read the new prompts in passes of their own, and put their keys and values beside those that are there."""
        others = CachedDecoder(self._model, {name: new for name, new in prompts.items() if new}, self._forward)
        logits = others.start()
        order: list[int] = []
        old, new = 0, sum(self.counts.values())
        for name in prompts:
            order += range(old, old := old + self.counts.get(name, 0))
            order += range(new, new := new + others.counts.get(name, 0))
        index = torch.tensor(order, device=self._device)
        self._cache.join(others._cache, index)
        self._positions = torch.cat([self._positions, others._positions]).index_select(0, index)
        both = {name: self.counts.get(name, 0) + others.counts.get(name, 0) for name in prompts}
        self.counts = {name: count for name, count in both.items() if count}
        return logits, order

    def _prefill(self, first: int, last: int) -> Float[Tensor, "prompts vocabulary"]:
        """Read some of the prompts; logits of each one's next token."""
        part = self._read[first:last]
        lengths = [len(prompt) for _, prompt in part]
        ends = torch.tensor(lengths).cumsum(0)
        self._cache.expect(
            [
                (row, int(ends[source - first]) - lengths[source - first])
                for row, source in enumerate(self._source)
                if first <= source < last
            ]
        )
        tokens: dict[str, int] = {}
        positions: dict[str, int] = {}
        for name, prompt in part:
            tokens[name] = tokens.get(name, 0) + len(prompt)
            positions[name] = positions.get(name, 0) + 1
        with attending(self._configs):
            return self._forward(
                tokens,
                positions,
                (ends - 1).to(self._device),
                input_ids=torch.tensor([token for _, prompt in part for token in prompt], device=self._device)[None],
                position_ids=torch.cat([torch.arange(length) for length in lengths]).to(self._device)[None],
                past_key_values=self._cache,
                use_cache=True,
                rows=Rows.of(lengths, self._device),
            )


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


@final
class PaddedDecoder(Decoder):
    """The base's own attention and cache, prompts padded on the left; finished rows are carried along."""

    def __init__(self, model: PreTrainedModel, prompts: Prompts, pad_id: int, forward: Forward) -> None:
        self.counts = {name: len(group) for name, group in prompts.items()}
        self._forward = forward
        device = next(model.parameters()).device
        rows = [prompt for group in prompts.values() for prompt in group]
        longest = max((len(prompt) for prompt in rows), default=0)
        self._ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in rows], device=device)
        self._mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in rows], device=device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._cache = DynamicCache(config=model.config)

    def start(self) -> Float[Tensor, "rows vocabulary"]:
        """Read the prompts; logits of each one's next token."""
        rows, length = self._ids.shape
        return self._pass(torch.arange(1, rows + 1, device=self._ids.device) * length - 1)

    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""
        self._ids, self._positions = chosen[:, None], self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)
        return self._pass(None)

    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Not all kinds of state can drop rows."""
        return False

    def join(self, prompts: Prompts) -> None:
        """Nor take new ones in."""

    def _pass(self, selected: Tensor | None) -> Float[Tensor, "rows vocabulary"]:
        length = self._ids.shape[1]
        return self._forward(
            {name: count * length for name, count in self.counts.items()},
            self.counts,
            selected,
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )


def _keeps_keys_and_values(model: PreTrainedModel) -> bool:
    """Whether keys and values of every layer, seen in full or through a window, are all that the base remembers."""
    config = model.config.get_text_config(decoder=True)
    layers = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(layers) and layers <= {DynamicLayer, DynamicSlidingWindowLayer}
