"""Which tokens of a pass belong to which policies: what every adapted matrix of an engine is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lowregret.lora.spans import SlotSpan
from lowregret.lora.updates import Update, updates_of

RowNorms = dict[tuple[str, str], Tensor]
"""Row norms for DoRA by matrix and policy, for passes between which no weight changes."""
ComputePairs = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]
"""(x [pairs, d], experts [pairs, 1], weights [pairs, 1], pairs of each run) → weighted outputs [pairs, d]."""
PairExchange = Callable[[Tensor, Tensor, Tensor, Sequence[int], int, ComputePairs], Tensor]
"""(x [tokens, d], experts [tokens, k], weights [tokens, k], tokens of each run, experts of each process, what computes
pairs) → sums over a token's experts [tokens, d], each computed by the process that holds it."""
AddUp = Callable[[Tensor], None]
"""Puts the sum over processes in the place of each one's tensor."""
FindSpans = Callable[[Sequence[str], Sequence[int]], Sequence[SlotSpan]]
"""(policies, tokens of each) → whose tokens are whose."""


@dataclass
class PolicyRouting:
    """Which tokens belong to which policies in the current pass; shared by all adapted matrices of an engine.

    `tokens` is for inputs of all positions, `positions` for the unembedding when only supervised ones reach it. Tokens
    of no policy pass through the base alone.
    """

    tokens: Sequence[SlotSpan] = ()
    positions: Sequence[SlotSpan] | None = None
    """None when the unembedding sees every token."""
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """Ties outputs to the graph though no input may need a gradient: adapters get theirs as a side effect."""
    norms: RowNorms | None = None
    """DoRA's, kept while no weight changes; None while they may."""
    known: dict[str, tuple[Sequence[SlotSpan], list[Update]]] | None = None
    """By matrix whose tokens were whose in the newest pass, and what they added; kept as long."""
    latest: tuple[dict[str, int], Sequence[SlotSpan]] | None = None
    """The tokens of each policy in the newest pass of the sampler, and whose they are; kept as long."""
    add_up: dict[str, AddUp] = field(default_factory=dict)
    """Of matrices whose rows lie over several processes: what adds up a number of each row over them."""
    exchange: PairExchange | None = None
    """What has tokens computed by experts of other processes; None when all experts are here."""

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """No weight changes inside, and no policy comes or goes: what is known of them is not computed again."""
        self.norms, self.known, self.latest = {}, {}, None
        try:
            yield
        finally:
            self.norms = self.known = self.latest = None

    def spans(self, counts: Mapping[str, int], find: FindSpans) -> Sequence[SlotSpan]:
        """Whose tokens are whose in a pass of so many of each policy; the same object for passes alike in a row."""
        if self.latest is not None and self.latest[0] == counts and list(self.latest[0]) == list(counts):
            return self.latest[1]
        found = find(list(counts), list(counts.values()))
        if self.known is not None:
            self.latest = dict(counts), found
        return found

    def updates(
        self, routed: Sequence[SlotSpan], own: Sequence[SlotSpan], matrix: str, dtype: torch.dtype
    ) -> Sequence[Update]:
        """What those spans of a pass add to one matrix that adapt it, in the type of products."""
        known = None if self.known is None else self.known.get(matrix)
        if known is None or known[0] is not routed:
            known = routed, updates_of(own, matrix, dtype)
            if self.known is not None:
                self.known[matrix] = known
        return known[1]
