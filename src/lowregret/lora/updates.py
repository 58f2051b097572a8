"""What policies add to one matrix's product in passes without gradients: looked up once, computed at every step.

A step of decoding is short. So what can be known before it, whose rows are neighbours and where their factors lie, is
found when the rows change, and a step is the products alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.lora.spans import SlotRun, SlotSpan


@dataclass(frozen=True, slots=True)
class Update:
    """That of one run: a batched product for A, one for B."""

    run: SlotRun
    policies: int
    a: Float[Tensor, "policies d_in factors"]
    """Aᵀ; of one policy [d_in, factors]."""
    b: Float[Tensor, "policies factors d_out"]
    """Bᵀ; of one policy [factors, d_out]."""

    def add(self, y: Float[Tensor, "all d_out"], x: Float[Tensor, "all d_in"]) -> None:
        """y += scale · x Aᵀ Bᵀ on the run's tokens, in place."""
        tokens = self.run.tokens
        if tokens.stop - tokens.start < len(x):
            y, x = y[tokens], x[tokens]
        if self.policies == 1:
            y.addmm_(torch.mm(x, self.a), self.b, alpha=self.run.scale)
            return
        x, y = x.view(self.policies, -1, x.shape[1]), y.view(self.policies, -1, y.shape[1])
        y.baddbmm_(torch.bmm(x, self.a), self.b, alpha=self.run.scale)


def updates_of(spans: Sequence[SlotSpan], matrix: str, dtype: torch.dtype) -> list[Update]:
    """Those of a pass on one matrix that all these spans adapt, in the type of products."""
    found = []
    for span in spans:
        a, b = span.factors(matrix, dtype)
        a, b = a.transpose(1, 2), b.transpose(1, 2)
        for run in span.runs:
            own: slice | int = run.first if run.last == run.first + 1 else slice(run.first, run.last)
            found.append(Update(run, run.last - run.first, a[own], b[own]))
    return found
