"""The pairs of token and expert of one layer in one pass, in the order and the blocks in which they are computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lowregret.lora.moe.rows import RowRouting
from lowregret.lora.moe.segments import Segments

BLOCK_PAIRS = 256
"""Pairs of a block on a CPU, about: what is made for so many fits a cache, and is not fetched as new memory."""


@dataclass(frozen=True)
class ExpertBlock:
    """Neighbouring experts, and the pairs of those that were sent to them."""

    rows: slice
    """Of the sorted pairs."""
    experts: slice
    token: Int64[Tensor, " rows"]
    expert: Int64[Tensor, " rows"]
    by_expert: Segments
    by_run: Segments
    """Groups of (expert, run), in this order."""

    def spread(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "rows d"]:
        """Each token's numbers to its pairs."""
        return x.index_select(0, self.token)


@dataclass(frozen=True)
class ExpertDispatch:
    """All pairs, sorted by expert and policy."""

    order: Int64[Tensor, " pairs"]
    """token · k + choice of each sorted pair."""
    back: Int64[Tensor, " pairs"]
    """Its inverse."""
    token: Int64[Tensor, " pairs"]
    expert: Int64[Tensor, " pairs"]
    chosen: int
    """Experts of a token: k."""
    by_expert: Segments
    by_run: Segments
    """Groups of (expert, run), in this order."""
    blocks: tuple[ExpertBlock, ...]
    """One at least; exactly one where the host does not know how many pairs each expert has."""

    @classmethod
    def of(cls, chosen: Int64[Tensor, "tokens k"], experts: int, routing: RowRouting) -> ExpertDispatch:
        """Sort a router's choices."""
        k, runs = chosen.shape[1], len(routing.sizes)
        group = (chosen * runs + routing.of_token(chosen.device)[:, None]).flatten()
        ordered, order = torch.sort(group, stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        counts = torch.zeros(experts * runs, dtype=torch.int64, device=order.device)
        counts.scatter_add_(0, group, torch.ones_like(group))
        each = Segments.of(counts)
        whole = each if runs == 1 else Segments.of(counts.view(experts, runs).sum(1))
        token, expert = order // k, ordered // runs

        def block(first: int, after: int, start: int, end: int) -> ExpertBlock:
            rows = slice(start, end)
            groups = whole.subset(slice(first, after), start), each.subset(slice(first * runs, after * runs), start)
            return ExpertBlock(rows, slice(first, after), token[rows], expert[rows], *groups)

        blocks = tuple(block(*cut) for cut in _cuts(whole)) or (
            ExpertBlock(slice(0, len(order)), slice(0, experts), token, expert, whole, each),
        )
        return cls(order, back, token, expert, k, whole, each, blocks)

    def gathered(
        self, block: ExpertBlock, rows: Float[Tensor, "rows d"], total: Float[Tensor, "tokens d"] | None
    ) -> Float[Tensor, "tokens d"]:
        """`total` and the sums of each token's pairs in a block; float32 or wider if there are several blocks.

        Sums are always taken in the same order: on a GPU, where `index_add_` does not, there is one block.
        """
        if len(self.blocks) == 1:
            return rows.index_select(0, self.back).view(-1, self.chosen, rows.shape[1]).sum(1)
        wide = torch.promote_types(rows.dtype, torch.float32)
        if total is None:
            total = rows.new_zeros(len(self.order) // self.chosen, rows.shape[1], dtype=wide)
        return total.index_add_(0, block.token, rows.to(wide))


def _cuts(experts: Segments) -> list[tuple[int, int, int, int]]:
    """(first expert, one after the last, first pair, end) of blocks of about BLOCK_PAIRS; none if sizes are unknown."""
    found: list[tuple[int, int, int, int]] = []
    for expert, start, end in experts.bounds or ():
        if found and end - found[-1][2] <= BLOCK_PAIRS:
            found[-1] = (found[-1][0], expert + 1, found[-1][2], end)
        else:
            found.append((expert, expert + 1, start, end))
    return found
