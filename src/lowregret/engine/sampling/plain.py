"""Sampling without a cache, for bases whose own cannot be used here: every token costs a pass over the whole row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.engine.sampling.decode import (
    CPU_PREFILL_TOKENS,
    PREFILL_TOKENS,
    ROOM,
    Decoder,
    Prompts,
    RoutedForward,
    joined,
)


@final
class PlainDecoder(Decoder):
    """Rows of one length are read together, so that none is padded: what a base remembers may not know of padding."""

    def __init__(self, model: PreTrainedModel, forward: RoutedForward) -> None:
        self.counts = {}
        self._model, self._forward = model, forward
        self._device = next(model.parameters()).device
        self._rows: list[tuple[str, tuple[int, ...]]] = []
        """(policy, tokens), in the order of the policies."""

    def join(self, prompts: Prompts, room: int = ROOM) -> tuple[Float[Tensor, "new_rows vocabulary"], list[int]]:
        """Take new rows in; they are read alone, the old ones wait for their next token."""
        new = [(name, tuple(prompt)) for name, group in prompts.items() for prompt in group]
        self.counts, order = joined(self.counts, prompts)
        both = [*self._rows, *new]
        self._rows = [both[row] for row in order]
        return self._read(new), order

    def step(self, chosen: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to each row; logits of the next."""
        grown = zip(self._rows, chosen.tolist(), strict=True)
        self._rows = [(name, (*tokens, token)) for (name, tokens), token in grown]
        return self._read(self._rows)

    def keep(self, kept: Sequence[int], counts: dict[str, int]) -> bool:
        """Go on with these rows only."""
        self._rows = [self._rows[row] for row in kept]
        self.counts = counts
        return True

    def _read(self, rows: Sequence[tuple[str, tuple[int, ...]]]) -> Float[Tensor, "rows vocabulary"]:
        """Logits after each row; equal rows of a policy, such as the prompt of a group, are read once."""
        different = list(dict.fromkeys(rows))
        order = sorted(range(len(different)), key=lambda row: len(different[row][1]))
        most = CPU_PREFILL_TOKENS if self._device.type == "cpu" else PREFILL_TOKENS
        found: list[Tensor] = []
        for length, alike in groupby(order, key=lambda row: len(different[row][1])):
            group, size = list(alike), max(most // length, 1)
            found += [
                self._pass([different[row] for row in group[first : first + size]])
                for first in range(0, len(group), size)
            ]
        place = {different[row]: rank for rank, row in enumerate(order)}
        return torch.cat(found).index_select(0, torch.tensor([place[row] for row in rows], device=self._device))

    def _pass(self, rows: Sequence[tuple[str, tuple[int, ...]]]) -> Float[Tensor, "rows vocabulary"]:
        """Logits after each of some rows of one length."""
        length = len(rows[0][1])
        counts: dict[str, int] = {}
        for name, _ in rows:
            counts[name] = counts.get(name, 0) + 1
        ids = torch.tensor([tokens for _, tokens in rows], device=self._device)
        ends = torch.arange(1, len(rows) + 1, device=self._device) * length - 1
        tokens = {name: count * length for name, count in counts.items()}
        return self._forward(tokens, counts, ends, lambda: self._model(input_ids=ids, use_cache=False).logits)
