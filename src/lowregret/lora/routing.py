"""Which tokens of a pass belong to which policies: what every adapted matrix of an engine is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.lora.spans import SlotSpan

RowNorms = dict[tuple[str, str], Tensor]
"""Row norms for DoRA by matrix and policy, for passes between which no weight changes."""
ComputePairs = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]
"""(x [pairs, d], experts [pairs, 1], weights [pairs, 1], pairs of each run) → weighted outputs [pairs, d]."""
PairExchange = Callable[[Tensor, Tensor, Tensor, Sequence[int], int, ComputePairs], Tensor]
"""(x [tokens, d], experts [tokens, k], weights [tokens, k], tokens of each run, experts of each process, what computes
pairs) → sums over a token's experts [tokens, d], each computed by the process that holds it."""
AddUp = Callable[[Tensor], None]
"""Puts the sum over processes in the place of each one's tensor."""
FactorCache = dict[tuple[str, int, int, int, torch.dtype], tuple[Tensor, Tensor]]
"""Aᵀ and Bᵀ by matrix, bank, first and last slot and type, for the same passes."""


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
    known: FactorCache | None = None
    """Those that were asked for, kept as long."""
    add_up: dict[str, AddUp] = field(default_factory=dict)
    """Of matrices whose rows lie over several processes: what adds up a number of each row over them."""
    exchange: PairExchange | None = None
    """What has tokens computed by experts of other processes; None when all experts are here."""

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """No weight changes inside, and no policy comes or goes: what is known of them is not computed again."""
        self.norms, self.known = {}, {}
        try:
            yield
        finally:
            self.norms = self.known = None

    def factors(
        self, span: SlotSpan, matrix: str, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "policies d_in factors"], Float[Tensor, "policies factors d_out"]]:
        """Aᵀ and Bᵀ of what each policy of a span adds to one matrix, in the type of products."""
        key = (matrix, id(span.bank), span.slots.start, span.slots.stop, dtype)
        found = None if self.known is None else self.known.get(key)
        if found is None:
            a, b = span.factors(matrix, dtype)
            found = a.transpose(1, 2), b.transpose(1, 2)
            if self.known is not None:
                self.known[key] = found
        return found
