"""Running a base token by token: prompts are read, after that every row adds one token a step.

Prompts are read end to end, without padding and each only once; their keys and values go to the cache of `cache.py`.

Where a row's angles depend on its length (`forward/positions.py`), keys in a cache are those of the shorter row that it
was. A row that grows into another kind is read anew, so that a token is always drawn as the base gives it after the row
so far; transformers does the same for Phi-3, which has one such place, and lets the keys of other bases stay as they
are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lowregret.engine.forward.attention import VarlenRows, configurations, patched_attention
from lowregret.engine.forward.positions import RowPositions
from lowregret.engine.sampling.cache import NAME, RowCache
from lowregret.engine.sampling.lean import lean_step

CPU_PREFILL_TOKENS = 1024
"""Prompt tokens read in one pass on a CPU. Larger passes are slower there: activations leave the cache."""
PREFILL_TOKENS = 16384
"""The same on other devices: bounds the memory for activations; where larger passes stop paying is not measured."""

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


@final
class CachedDecoder(Decoder):
    """Prompts without padding, a cache written in place, finished rows dropped."""

    def __init__(
        self, model: PreTrainedModel, prompts: Prompts, forward: RoutedForward, positions: RowPositions
    ) -> None:
        self.counts = {name: len(group) for name, group in prompts.items()}
        self._model, self._forward, self._angles = model, forward, positions
        self._rows = [list(prompt) for group in prompts.values() for prompt in group] if positions else []
        """The tokens of each row so far, where they may have to be read again."""
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
        self._step = lean_step(model)

    def start(self) -> Float[Tensor, "rows vocabulary"]:
        """Read the prompts; logits of each one's next token."""
        places = [
            [row for row, source in enumerate(self._source) if source == index] for index in range(len(self._read))
        ]
        logits = self._prefill(self._read, places)
        self._cache.filled()
        return logits.index_select(0, torch.tensor(self._source, device=self._device))

    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""
        self._cache.advance()
        logits = self._forward(self.counts, self.counts, None, lambda: self._pass(chosen))
        self._positions = self._positions + 1
        return self._read_again(chosen, logits) if self._angles else logits

    def _read_again(
        self, chosen: Int[Tensor, " rows"], logits: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """The logits, after rows that have grown into another kind are read anew."""
        grown = _grown(self._rows, chosen, self._angles)
        if not grown:
            return logits
        names = [name for name, count in self.counts.items() for _ in range(count)]
        self._cache.reading = True
        read = self._prefill([(names[row], self._rows[row]) for row in grown], [[row] for row in grown])
        self._cache.reading = False
        return logits.index_copy(0, torch.tensor(grown, device=self._device), read.to(logits.dtype))

    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Go on with these rows only."""
        rows = torch.tensor(kept, device=self._device)
        self._cache.keep(kept)
        self._positions = self._positions.index_select(0, rows)
        self._rows = [self._rows[row] for row in kept] if self._angles else []
        self.counts = counts
        return True

    def join(self, prompts: Prompts) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]]:
        """Read the new prompts in passes of their own, and put their keys and values beside those that are there."""
        some = {name: new for name, new in prompts.items() if new}
        others = CachedDecoder(self._model, some, self._forward, self._angles)
        logits = others.start()
        order: list[int] = []
        old, new = 0, sum(self.counts.values())
        for name in prompts:
            order += range(old, old := old + self.counts.get(name, 0))
            order += range(new, new := new + others.counts.get(name, 0))
        index = torch.tensor(order, device=self._device)
        self._cache.join(others._cache, index)
        self._positions = torch.cat([self._positions, others._positions]).index_select(0, index)
        if self._angles:
            self._rows = [(self._rows + others._rows)[row] for row in order]
        both = {name: self.counts.get(name, 0) + others.counts.get(name, 0) for name in prompts}
        self.counts = {name: count for name, count in both.items() if count}
        return logits, order

    def _pass(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows 1 vocabulary"]:
        if self._step is not None:
            return self._step(chosen, self._positions, self._cache)
        with patched_attention(self._configs, NAME):
            logits: Tensor = self._model(
                input_ids=chosen[:, None],
                position_ids=self._positions,
                past_key_values=self._cache,
                use_cache=True,
                hidden=self._cache.hidden,
            ).logits
        return logits

    def _prefill(
        self, read: Sequence[tuple[str, Sequence[int]]], places: Sequence[Sequence[int]]
    ) -> Float[Tensor, "read vocabulary"]:
        """Read (policy, tokens) into the rows at their places; logits of each one's next token."""
        most = CPU_PREFILL_TOKENS if self._device.type == "cpu" else PREFILL_TOKENS
        found, first = [], 0
        while first < len(read):
            last, tokens = first + 1, len(read[first][1])
            while last < len(read) and tokens + len(read[last][1]) <= most:
                tokens += len(read[last][1])
                last += 1
            found.append(self._prefill_pass(read[first:last], places[first:last]))
            first = last
        return torch.cat(found)

    def _prefill_pass(
        self, part: Sequence[tuple[str, Sequence[int]]], places: Sequence[Sequence[int]]
    ) -> Float[Tensor, "part vocabulary"]:
        lengths = [len(prompt) for _, prompt in part]
        ends = torch.tensor(lengths).cumsum(0)
        starts = (ends - torch.tensor(lengths)).tolist()
        self._cache.expect(sorted((row, start) for rows, start in zip(places, starts, strict=True) for row in rows))
        tokens: dict[str, int] = {}
        positions: dict[str, int] = {}
        for name, prompt in part:
            tokens[name] = tokens.get(name, 0) + len(prompt)
            positions[name] = positions.get(name, 0) + 1
        inputs = {
            "input_ids": torch.tensor([token for _, prompt in part for token in prompt], device=self._device)[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths]).to(self._device)[None],
            "rows": VarlenRows.of(lengths, self._device),
        }
        with patched_attention(self._configs):
            return self._forward(
                tokens,
                positions,
                (ends - 1).to(self._device),
                lambda: self._model(past_key_values=self._cache, use_cache=True, **inputs).logits,
            )


@final
class PaddedDecoder(Decoder):
    """The base's own attention and cache, prompts padded on the left; finished rows are carried along."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Prompts,
        pad_id: int,
        forward: RoutedForward,
        positions: RowPositions,
    ) -> None:
        self.counts = {name: len(group) for name, group in prompts.items()}
        self._model, self._forward, self._angles = model, forward, positions
        device = next(model.parameters()).device
        rows = [prompt for group in prompts.values() for prompt in group]
        longest = max((len(prompt) for prompt in rows), default=0)
        self._ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in rows], device=device)
        self._mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in rows], device=device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._cache = DynamicCache(config=model.config)
        self._rows = [list(prompt) for prompt in rows] if positions else []
        self._all = self._ids
        """All tokens so far, padding included."""

    def start(self) -> Float[Tensor, "rows vocabulary"]:
        """Read all tokens so far; logits of each row's next."""
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
                self._cache = DynamicCache(config=self._model.config)
                return self.start()
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
