"""Whose the rows are that come to the experts of a layer: policy by policy, those of none included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from lowregret.lora.kernels import moved
from lowregret.lora.spans import SlotSpan


@dataclass(frozen=True)
class RowRouting:
    """Whose the tokens of a pass are: runs of one policy each, in order, or of none."""

    spans: tuple[SlotSpan | None, ...]
    """Neighbours in a bank; None for tokens without a LoRA on these experts."""
    sizes: tuple[int, ...]
    """Tokens of each run; a span has a run for each of its policies."""

    @classmethod
    def of(cls, spans: Sequence[SlotSpan]) -> RowRouting:
        """Spans in the order of their tokens, with the gaps between them."""
        found: list[SlotSpan | None] = []
        sizes: list[int] = []
        place = 0
        for span in spans:
            if span.start > place:
                found.append(None)
                sizes.append(span.start - place)
            found.append(span)
            sizes += span.sizes
            place = span.tokens.stop
        if spans[0].total > place:
            found.append(None)
            sizes.append(spans[0].total - place)
        return cls(tuple(found), tuple(sizes))

    def of_token(self, device: torch.device) -> Int64[Tensor, " tokens"]:
        """The run of each token. Sizes are known here: no device is waited for."""
        runs = [torch.full((size,), run) for run, size in enumerate(self.sizes)]
        return moved(torch.cat(runs), device)

    def names(self) -> Iterator[tuple[int, str]]:
        """The runs that are a policy's, with its name."""
        run = 0
        for span in self.spans:
            for name in ("",) if span is None else span.bank.members[span.slots]:
                if span is not None:
                    yield run, name
                run += 1

    def adapt(self, matrix: str) -> bool:
        """Whether any policy of the pass adapts this matrix."""
        return any(span is not None and matrix in span.bank.matrices for span in self.spans)
