"""The A and B of all policies of a pass on one matrix of every expert, and where their gradients go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.lora.kernels import moved
from lowregret.lora.moe.dispatch import ExpertBlock
from lowregret.lora.moe.rows import RowRouting
from lowregret.lora.moe.segments import Segments
from lowregret.lora.spans import SlotSpan

_ALIGNED = 8
"""Ranks are filled up to a multiple of this off a CPU: `grouped_mm` wants rows of 16 bytes, in bfloat16 too."""


@dataclass(frozen=True)
class ExpertFactors:
    """A and scale · B of every run on one matrix. One of both may be the same for all experts.

    `reduce` is by A and `expand` by B; the factors of runs without a LoRA are zero.
    """

    routing: RowRouting
    matrix: str
    a: Float[Tensor, "runs a_experts rank d_in"]
    b: Float[Tensor, "runs b_experts d_out rank"]
    experts: int

    @classmethod
    def of(cls, routing: RowRouting, matrix: str, experts: int, dtype: torch.dtype) -> ExpertFactors:
        """Those of one matrix, in the type of products; some policy of the pass adapts it (`RowRouting.adapt`)."""
        holding = [span for span in routing.spans if span is not None and matrix in span.bank.matrices]
        one = holding[0].bank.matrices[matrix]
        a_all = [span.bank.a(matrix, span.slots) for span in holding]
        b_all = [span.bank.b(matrix, span.slots) for span in holding]
        rank = max(a.shape[2] for a in a_all)
        if a_all[0].device.type != "cpu":
            rank = -(-rank // _ALIGNED) * _ALIGNED
        a_experts = max(a.shape[1] for a in a_all)
        b_experts = max(b.shape[1] for b in b_all)
        runs_a, runs_b = [], []
        found = iter(zip(a_all, b_all, strict=True))
        for span in routing.spans:
            if span is None or matrix not in span.bank.matrices:
                runs = 1 if span is None else len(span.sizes)
                runs_a.append(a_all[0].new_zeros(runs, a_experts, rank, one.d_in, dtype=dtype))
                runs_b.append(b_all[0].new_zeros(runs, b_experts, one.d_out, rank, dtype=dtype))
                continue
            a, b = next(found)
            more = rank - a.shape[2]
            scaled = b * _scales(span, b)
            runs_a.append(_widened(a.to(dtype), a_experts, (0, 0, 0, more)))
            runs_b.append(_widened(scaled.to(dtype), b_experts, (0, more)))
        return cls(routing, matrix, _joined(runs_a), _joined(runs_b), experts)

    @property
    def role(self) -> str:
        """`gate_proj`, `up_proj` or `down_proj`."""
        return self.matrix.rpartition(".")[2]

    @property
    def a_shared(self) -> bool:
        """Whether A is one for all experts, of which there are several."""
        return self.a.shape[1] == 1 != self.experts

    @property
    def b_shared(self) -> bool:
        """The same of B."""
        return self.b.shape[1] == 1 != self.experts

    def reduced(self, block: ExpertBlock, rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows rank"]:
        """x Aᵀ of each pair; `rows` are x, pair by pair."""
        return block.by_run.times(rows, self._grouped(self.a, block).transpose(1, 2))

    def reduced_once(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens rank"]:
        """The same of a shared A, token by token."""
        return self._by_run(x).times(x, self.a[:, 0].transpose(1, 2))

    def expand(self, block: ExpertBlock, total: Float[Tensor, "rows d_out"], u: Float[Tensor, "rows rank"]) -> None:
        """total += u (scale · B)ᵀ, in place."""
        block.by_run.add_times(total, u, self._grouped(self.b, block).transpose(1, 2))

    def expand_shared(self, total: Float[Tensor, "tokens d_out"], u: Float[Tensor, "tokens rank"]) -> None:
        """The same of a shared B, token by token."""
        wide = self.b[:, 0].transpose(1, 2).to(total.dtype)
        self._by_run(total).add_times(total, u.to(total.dtype), wide)

    def expanded_gradient(
        self, block: ExpertBlock, dy: Float[Tensor, "rows d_out"], u: Float[Tensor, "rows rank"]
    ) -> Float[Tensor, "rows rank"]:
        """The gradient of u from that of `expand`; that of B is added to the banks."""
        self._add("b", block.by_run.outer(u, dy).transpose(1, 2), block)
        return block.by_run.times(dy, self._grouped(self.b, block))

    def shared_gradient(
        self, dy: Float[Tensor, "tokens d_out"], u: Float[Tensor, "tokens rank"]
    ) -> Float[Tensor, "tokens rank"]:
        """The same of `expand_shared`."""
        by_run = self._by_run(dy)
        self._add("b", by_run.outer(u, dy).transpose(1, 2))
        return by_run.times(dy, self.b[:, 0])

    def add_reduced(
        self, block: ExpertBlock, total: Float[Tensor, "rows d_in"], du: Float[Tensor, "rows rank"]
    ) -> None:
        """total += du A, in place."""
        block.by_run.add_times(total, du, self._grouped(self.a, block))

    def add_a_gradient(
        self, block: ExpertBlock, du: Float[Tensor, "rows rank"], rows: Float[Tensor, "rows d_in"]
    ) -> None:
        """Add the gradient of A to the banks."""
        self._add("a", block.by_run.outer(du, rows), block)

    def reduced_once_gradient(
        self, du: Float[Tensor, "tokens rank"], x: Float[Tensor, "tokens d_in"], dx: Float[Tensor, "tokens d_in"] | None
    ) -> None:
        """From the gradient of `reduced_once`: that of A is added to the banks, that of x to `dx`."""
        by_run = self._by_run(x)
        self._add("a", by_run.outer(du, x))
        if dx is not None:
            dx += by_run.times(du, self.a[:, 0])

    def _by_run(self, x: Tensor) -> Segments:
        """Tokens lie run by run."""
        return Segments.of(moved(torch.tensor(self.routing.sizes), x.device))

    def _grouped(self, factor: Float[Tensor, "runs any m n"], block: ExpertBlock) -> Float[Tensor, "groups m n"]:
        """One matrix for each (expert, run) of a block."""
        if factor.shape[1] == 1:
            factor = factor.expand(-1, self.experts, -1, -1)
        return factor[:, block.experts].transpose(0, 1).flatten(0, 1)

    def _add(self, which: str, gradient: Float[Tensor, "groups m n"], block: ExpertBlock | None = None) -> None:
        """To the banks: from one matrix for each (expert, run) of a block; or, without one, for each run."""
        runs_last = gradient[None] if block is None else gradient.unflatten(0, (-1, len(self.routing.sizes)))
        by_run = runs_last.transpose(0, 1)
        run = 0
        for span in self.routing.spans:
            runs = 1 if span is None else len(span.sizes)
            own = by_run[run : run + runs]
            run += runs
            if span is None or self.matrix not in span.bank.matrices:
                continue
            bank = span.bank
            total = (bank.a_gradient if which == "a" else bank.b_gradient)(self.matrix, span.slots)
            if total.shape[1] == 1:
                own = own.sum(1, keepdim=True)
            elif block is not None:
                total = total[:, block.experts]
            if which == "a":
                total += own[..., : total.shape[2], :]
            else:
                total += own[..., : total.shape[3]] * _scales(span, own)


def _scales(span: SlotSpan, like: Tensor) -> Float[Tensor, "policies one one one"]:
    """Those of a span on experts, in another's type and on its device."""
    return moved(torch.tensor(span.expert_scales, dtype=like.dtype), like.device)[:, None, None, None]


def _widened(factor: Tensor, experts: int, padding: tuple[int, ...]) -> Tensor:
    """With zeros for the ranks that are missing, and one for each expert if others of the pass have that."""
    wide = torch.nn.functional.pad(factor, padding) if any(padding) else factor
    return wide if wide.shape[1] == experts else wide.expand(-1, experts, -1, -1)


def _joined(runs: Sequence[Tensor]) -> Tensor:
    return runs[0] if len(runs) == 1 else torch.cat(list(runs))
