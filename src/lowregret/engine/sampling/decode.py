"""Running a base token by token: prompts are read, after that every row adds one token a step.

Prompts are read end to end, without padding and each only once; their keys and values go to the slots of `cache.py`.
What a prompt has in common with one that was read before need not be read again (`prefixes.py`).

Where a row's angles depend on its length (`forward/positions.py`), keys in a cache are those of the shorter row that it
was. A row that grows into another kind is read anew, so that a token is always drawn as the base gives it after the row
so far; transformers does the same for Phi-3, which has one such place, and lets the keys of other bases stay as they
are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lowregret.engine.forward.attention import VarlenRows, configurations, patched_attention
from lowregret.engine.forward.positions import RowPositions
from lowregret.engine.sampling.cache import AFTER, NAME, Reading, SlotCache
from lowregret.engine.sampling.lean import lean_step
from lowregret.engine.sampling.pools import Slot
from lowregret.engine.sampling.prefixes import Prefixes, States

CPU_PREFILL_TOKENS = 1024
"""Prompt tokens read in one pass on a CPU. Larger passes are slower there: activations leave the cache."""
PREFILL_TOKENS = 16384
"""The same on other devices: bounds the memory for activations; where larger passes stop paying is not measured."""

ROOM = 256
"""Tokens that a row has room for when it is taken in, if it may draw so many: most draw far fewer than they may."""

Prompts = Mapping[str, Sequence[Sequence[int]]]

LogitsFn = Callable[[], Tensor]
"""A pass of the base that returns its logits."""


class RoutedForward(Protocol):
    """Runs a pass with its policies, as the engine knows how to."""

    def __call__(
        self, tokens: Mapping[str, int], positions: Mapping[str, int], selected: Tensor | None, run: LogitsFn
    ) -> Tensor:
        """Logits [positions, vocabulary] of what `run` returns.

        `tokens` and `positions` say how many tokens, and how many wanted positions, are each policy's, in the order in
        which they lie in the flattened inputs; `selected` is where the wanted ones lie, None when all are wanted.
        """


class Decoder(ABC):
    """Rows of prompts that grow by one token a step."""

    counts: dict[str, int]
    """Rows of each policy, in order."""

    @abstractmethod
    def join(self, prompts: Prompts, room: int = ROOM) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]] | None:
        """Read the prompts of new rows and take them in; None when it cannot, beside those that are there.

        `prompts` names all policies in order; `room` is how many tokens a row will have, at most. Returns the logits of
        the new rows' first tokens and the order of all rows from now on, as indices into the old rows followed by the
        new: a policy's rows stay together.
        """

    @abstractmethod
    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""

    @abstractmethod
    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Go on with these rows only; False when it cannot and goes on with all."""

    def ends(self, row: int, tokens: Sequence[int]) -> None:  # noqa: B027 (most remember nothing)
        """A row that is about to leave has these tokens, its prompt and all that were appended."""

    def renew(self) -> None:  # noqa: B027 (most hold no module of the base)
        """Policies have come or gone."""


def joined(counts: Mapping[str, int], prompts: Prompts) -> tuple[dict[str, int], list[int]]:
    """(rows of each policy, order of all rows) after prompts have joined: see `Decoder.join`."""
    order: list[int] = []
    both: dict[str, int] = {}
    ends = dict(zip(counts, accumulate(counts.values()), strict=True))
    new = sum(counts.values())
    for name, group in prompts.items():  # not always in the order of the old rows: a policy that has gone lies last now
        if name in counts:
            order += range(ends[name] - counts[name], ends[name])
        order += range(new, new := new + len(group))
        if size := counts.get(name, 0) + len(group):
            both[name] = size
    return both, order


@dataclass(frozen=True)
class _Read:
    """A prompt to be read, once for all rows that go on from it."""

    policy: str
    tokens: Sequence[int]
    slots: list[Slot]
    known: int = 0
    """Tokens that its slot has already."""


@final
class CachedDecoder(Decoder):
    """Prompts without padding, each row's keys and values in a slot, finished rows dropped."""

    def __init__(
        self,
        model: PreTrainedModel,
        forward: RoutedForward,
        positions: RowPositions,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.counts = {}
        self._model, self._forward, self._angles = model, forward, positions
        self._rows: list[list[int]] = []
        """The tokens of each row so far, where they may have to be read again."""
        self._configs = configurations(model)
        self._device = next(model.parameters()).device
        self._cache = SlotCache(model.config, self._device)
        self._prefixes = None if positions else prefixes
        self._names: list[str] = []
        self._positions = torch.empty(0, 1, dtype=torch.int64, device=self._device)
        self.renew()

    def renew(self) -> None:
        """Policies have come or gone: the modules of the base are others."""
        self._step = lean_step(self._model)

    def join(self, prompts: Prompts, room: int = ROOM) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]]:
        """Read the new prompts in passes of their own, into slots of their own."""
        asked = [(name, tuple(prompt)) for name, group in prompts.items() for prompt in group]
        counts, order = joined(self.counts, prompts)
        new = self._cache.take([len(prompt) for _, prompt in asked], min(room, ROOM))
        try:
            logits = self._read_all(asked, new)
        except BaseException:
            for slot in new:
                slot.pool.free(slot)
            raise
        slots, names = [*self._cache.rows, *new], [*self._names, *(name for name, _ in asked)]
        index = torch.tensor(order, device=self._device)
        lengths = torch.tensor([len(prompt) for _, prompt in asked], device=self._device)
        self._positions = torch.cat([self._positions, lengths[:, None]]).index_select(0, index)
        if self._angles:
            rows = [*self._rows, *(list(prompt) for _, prompt in asked)]
            self._rows = [rows[row] for row in order]
        self._names = [names[row] for row in order]
        self.counts = counts
        self._cache.seat([slots[row] for row in order])
        return logits, order

    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""
        self._cache.advance()
        logits = self._forward(self.counts, self.counts, None, lambda: self._pass(chosen))
        self._positions = self._positions + 1
        return self._read_again(chosen, logits) if self._angles else logits

    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Go on with these rows only."""
        rows = torch.tensor(kept, dtype=torch.int64, device=self._device)
        self._cache.seat([self._cache.rows[row] for row in kept])
        self._positions = self._positions.index_select(0, rows)
        self._rows = [self._rows[row] for row in kept] if self._angles else []
        self._names = [self._names[row] for row in kept]
        self.counts = counts
        return True

    def ends(self, row: int, tokens: Sequence[int]) -> None:
        """Keep what was read for those that begin alike; its newest token was not read."""
        slot = self._cache.rows[row]
        self._remember(self._names[row], tokens[: slot.length], slot)

    def _remember(self, policy: str, tokens: Sequence[int], slot: Slot) -> None:
        if self._prefixes is not None and not self._prefixes.known(policy, tokens):
            states = [layer.read(slot, len(tokens)) for layer in self._cache.slot_layers]
            self._prefixes.keep(policy, tokens, states)

    def _read_all(
        self, asked: Sequence[tuple[str, tuple[int, ...]]], slots: Sequence[Slot]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Read each different prompt once; logits of each row's first token."""
        different: dict[tuple[str, tuple[int, ...]], list[Slot]] = {}
        for prompt, slot in zip(asked, slots, strict=True):
            different.setdefault(prompt, []).append(slot)
        reads = [self._begun(_Read(name, tokens, own)) for (name, tokens), own in different.items()]
        order = sorted(range(len(reads)), key=lambda row: reads[row].known > 0)
        logits = self._prefill([reads[row] for row in order])
        for read in reads:
            self._remember(read.policy, read.tokens, read.slots[0])
        place = {prompt: order.index(row) for row, prompt in enumerate(different)}
        return logits.index_select(0, torch.tensor([place[prompt] for prompt in asked], device=self._device))

    def _begun(self, read: _Read) -> _Read:
        """With what is known of its first tokens in its slots."""
        known, states = (0, []) if self._prefixes is None else self._prefixes.find(read.policy, read.tokens)
        if not known:
            return read
        for slot in read.slots:
            self._fill(slot, states)
        return _Read(read.policy, read.tokens, read.slots, known)

    def _fill(self, slot: Slot, states: States) -> None:
        for layer, own in zip(self._cache.slot_layers, states, strict=True):
            layer.fill(slot, own)

    def _read_again(
        self, chosen: Int[Tensor, " rows"], logits: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """The logits, after rows that have grown into another kind are read anew."""
        grown = _grown(self._rows, chosen, self._angles)
        if not grown:
            return logits
        read = self._prefill([_Read(self._names[row], self._rows[row], [self._cache.rows[row]]) for row in grown])
        return logits.index_copy(0, torch.tensor(grown, device=self._device), read.to(logits.dtype))

    def _pass(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows 1 vocabulary"]:
        if self._step is not None:
            return self._step(chosen, self._positions, self._cache)
        with patched_attention(self._configs, NAME):
            logits: Tensor = self._model(
                input_ids=chosen[:, None],
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                cells=self._cache,
            ).logits
        return logits

    def _prefill(self, reads: Sequence[_Read]) -> Float[Tensor, "read vocabulary"]:
        """Read prompts into their slots, those with known beginnings last; logits of each one's next token."""
        most = CPU_PREFILL_TOKENS if self._device.type == "cpu" else PREFILL_TOKENS
        found, first = [], 0
        while first < len(reads):
            last, tokens = first + 1, len(reads[first].tokens) - reads[first].known
            while last < len(reads) and bool(reads[last].known) == bool(reads[first].known):
                tokens += len(reads[last].tokens) - reads[last].known
                if tokens > most:
                    break
                last += 1
            found.append(self._prefill_pass(reads[first:last]))
            first = last
        return torch.cat(found)

    def _prefill_pass(self, part: Sequence[_Read]) -> Float[Tensor, "part vocabulary"]:
        lengths = [len(read.tokens) - read.known for read in part]
        ends = torch.tensor(lengths).cumsum(0)
        starts = (ends - torch.tensor(lengths)).tolist()
        pairs = list(zip(part, starts, strict=True))
        tokens: dict[str, int] = {}
        positions: dict[str, int] = {}
        for read, length in zip(part, lengths, strict=True):
            tokens[read.policy] = tokens.get(read.policy, 0) + length
            positions[read.policy] = positions.get(read.policy, 0) + 1
        places = torch.cat([torch.arange(read.known, len(read.tokens)) for read in part])
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([t for read in part for t in read.tokens[read.known :]], device=self._device)[
                None
            ],
            "position_ids": places.to(self._device)[None],
        }
        after = bool(part[0].known)
        inputs |= {"cells": self._cache} if after else {"rows": VarlenRows.of(lengths, self._device)}
        self._cache.reading = Reading(
            [(slot, start, read.known) for read, start in pairs for slot in (read.slots[:1] if after else read.slots)],
            self._device,
        )
        try:
            with patched_attention(self._configs, AFTER) if after else patched_attention(self._configs):
                return self._forward(
                    tokens,
                    positions,
                    (ends - 1).to(self._device),
                    lambda: self._model(past_key_values=self._cache, use_cache=True, **inputs).logits,
                )
        finally:
            self._cache.reading = None
            for read in part if after else ():
                self._copy(read)

    def _copy(self, read: _Read) -> None:
        """Give the other rows of a prompt what was read into the slot of the first."""
        for slot in read.slots[1:]:
            self._fill(slot, [layer.read(read.slots[0], len(read.tokens)) for layer in self._cache.slot_layers])


@final
class PaddedDecoder(Decoder):
    """The base's own attention and cache, prompts padded on the left; finished rows are carried along."""

    def __init__(self, model: PreTrainedModel, pad_id: int, forward: RoutedForward, positions: RowPositions) -> None:
        self.counts = {}
        self._model, self._pad_id, self._forward, self._angles = model, pad_id, forward, positions

    def join(self, prompts: Prompts, room: int = ROOM) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]] | None:
        """Read all prompts; not all kinds of state can take in more."""
        if self.counts:
            return None
        self.counts = {name: len(group) for name, group in prompts.items() if group}
        device = next(self._model.parameters()).device
        rows = [prompt for group in prompts.values() for prompt in group]
        longest = max((len(prompt) for prompt in rows), default=0)
        self._ids = torch.tensor([[self._pad_id] * (longest - len(p)) + list(p) for p in rows], device=device)
        self._mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in rows], device=device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._rows = [list(prompt) for prompt in rows] if self._angles else []
        self._all = self._ids
        """All tokens so far, padding included."""
        return self._start(), list(range(len(rows)))

    def _start(self) -> Float[Tensor, "rows vocabulary"]:
        """Read all tokens so far; logits of each row's next."""
        self._cache = DynamicCache(config=self._model.config)
        rows, length = self._ids.shape
        return self._pass(torch.arange(1, rows + 1, device=self._ids.device) * length - 1)

    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""
        self._ids, self._positions = chosen[:, None], self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)
        if self._angles:
            self._all = torch.cat([self._all, self._ids], dim=1)
            if _grown(self._rows, chosen, self._angles):
                self._ids, self._positions = self._all, (self._mask.cumsum(1) - 1).clamp(min=0)
                return self._start()
        return self._pass(None)

    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Not all kinds of state can drop rows."""
        return False

    def _pass(self, selected: Tensor | None) -> Float[Tensor, "rows vocabulary"]:
        length = self._ids.shape[1]
        return self._forward(
            {name: count * length for name, count in self.counts.items()},
            self.counts,
            selected,
            lambda: (
                self._model(
                    input_ids=self._ids,
                    attention_mask=self._mask,
                    position_ids=self._positions,
                    past_key_values=self._cache,
                    use_cache=True,
                ).logits
            ),
        )


def _grown(rows: Sequence[list[int]], chosen: Int[Tensor, " rows"], positions: RowPositions) -> list[int]:
    """Rows that are of another kind with the token that was chosen for each, which is appended."""
    for row, token in zip(rows, chosen.tolist(), strict=True):
        row.append(token)
    return [index for index, row in enumerate(rows) if positions.kind(len(row)) != positions.kind(len(row) - 1)]
