"""Whose tokens of a pass are whose, and products of each policy's tokens with its own matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor

from lowregret.lora.bank import AdapterBank
from lowregret.lora.dropout import Dropout
from lowregret.lora.kernels import CPU, Kernels, moved
from lowregret.lora.masks import CountedMasks, counted

MOST_GROUPS = 1024
"""Of one `grouped_mm`, less one."""
_BYTES = 16


@dataclass(frozen=True)
class SlotRun:
    """Policies of a span with equally many tokens and one scale: what one batched product serves."""

    first: int
    """Among those of the span."""
    last: int
    """The one after them."""
    tokens: slice
    """Theirs, in the flattened inputs."""
    scale: float


@dataclass(frozen=True)
class SlotSpan:
    """Neighbours in one bank, and which tokens of the pass are theirs.

    When all have the same number of tokens, their products are one `bmm`; else one `grouped_mm` where that is one
    kernel, for widths that are multiples of 16 bytes, and one `mm` each elsewhere. Gathering tokens into a padded
    tensor for `bmm` costs more than it saves on a CPU (docs/findings/2026-11-24-engine-choices.md has the times).
    """

    bank: AdapterBank
    slots: slice
    start: int
    """First token, in the flattened inputs."""
    sizes: tuple[int, ...]
    """Tokens of each policy, in the bank's order."""
    scales: tuple[float, ...]
    """The scale of each policy's product."""
    dropouts: tuple[Dropout | None, ...]
    total: int
    """Tokens of all policies in the pass."""
    expert_scales: tuple[float, ...] = ()
    """Scales on matrices of experts, which have ranks of their own; needed where those are adapted."""
    kernels: Kernels = CPU
    """How products and masks are computed."""

    @property
    def tokens(self) -> slice:
        """All tokens of this span."""
        return slice(self.start, self.start + sum(self.sizes))

    @cached_property
    def runs(self) -> tuple[SlotRun, ...]:
        """Its policies, those together that are neighbours and alike."""
        starts = [self.start, *(self.start + end for end in accumulate(self.sizes))]
        alike = groupby(range(len(self.sizes)), key=lambda index: (self.sizes[index], self.scales[index]))
        runs = [(scale, list(indices)) for (_, scale), indices in alike]
        return tuple(
            SlotRun(own[0], own[-1] + 1, slice(starts[own[0]], starts[own[-1] + 1]), scale) for scale, own in runs
        )

    def factors(
        self, matrix: str, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "policies factors d_in"], Float[Tensor, "policies d_out factors"]]:
        """A and B of what each policy adds to one matrix, in the type of products."""
        return self.bank.factors(matrix, self.slots, dtype)

    def trained(self, u: Float[Tensor, "tokens factors"]) -> Float[Tensor, "tokens rank"]:
        """scale · x Aᵀ of the trained A, from the same with the A of `factors`."""
        half = u.shape[1] // 2
        return u if self.bank.initial is None else u[:, :half] + u[:, half:]

    def trained_gradient(self, du: Float[Tensor, "tokens factors"]) -> Float[Tensor, "tokens rank"]:
        """scale · dy B of the trained B, from the same with the B of `factors`."""
        return du if self.bank.initial is None else du[:, : du.shape[1] // 2]

    def times(self, x: Float[Tensor, "tokens k"], factor: Float[Tensor, "policies k m"]) -> Float[Tensor, "tokens m"]:
        """Each policy's tokens times its own matrix."""
        if self._even:
            return torch.bmm(self._stacked(x), factor).view(x.shape[0], -1)
        if self._groups(x, factor):
            return F.grouped_mm(x, factor, offs=self._ends)
        out = x.new_empty(x.shape[0], factor.shape[2])
        for left, right, into in zip(x.split(self.sizes), factor, out.split(self.sizes), strict=True):
            torch.mm(left, right, out=into)
        return out

    def add_times(
        self,
        total: Float[Tensor, "tokens m"],
        x: Float[Tensor, "tokens k"],
        factor: Float[Tensor, "policies k m"],
    ) -> None:
        """total += `times`, in place."""
        if self._even:
            self._stacked(total).baddbmm_(self._stacked(x), factor)
            return
        if self._groups(x, factor):
            total += F.grouped_mm(x, factor, offs=self._ends)
            return
        for into, left, right in zip(total.split(self.sizes), x.split(self.sizes), factor, strict=True):
            into.addmm_(left, right)

    def add_outer(
        self,
        total: Float[Tensor, "policies k m"],
        left: Float[Tensor, "tokens k"],
        right: Float[Tensor, "tokens m"],
    ) -> None:
        """total += leftᵀ right of each policy, in place and in the type of `total`."""
        same = total.dtype is left.dtype
        if self._even:
            # Not `baddbmm_`: neighbours in a bank do not lie end to end, and then it is a loop of products on a CPU.
            total += torch.bmm(self._stacked(left).transpose(1, 2), self._stacked(right))
            return
        if self._groups(left, right):
            total += F.grouped_mm(left.T, right, offs=self._ends)
            return
        for into, one, other in zip(total, left.split(self.sizes), right.split(self.sizes), strict=True):
            if same:
                into.addmm_(one.T, other)
            else:
                into += one.T @ other

    def before_base(self, x: Float[Tensor, "tokens k"], factor: Float[Tensor, "policies k m"]) -> bool:
        """Whether `times` is to come before the base's product is added to it, which then reads and writes y once.

        `grouped_mm` cannot add to what is there, so that the other way round y is read twice. All of the pass's tokens
        must be this span's.
        """
        return sum(self.sizes) == self.total and not self._even and self._groups(x, factor)

    @property
    def _even(self) -> bool:
        return len(set(self.sizes)) == 1

    def _groups(self, *factors: Tensor) -> bool:
        """Whether `grouped_mm` takes these: it takes up to 1,023 groups of matrices whose rows are 16 bytes apart."""
        return self.kernels.grouped and len(self.sizes) < MOST_GROUPS and all(map(_aligned, factors))

    @cached_property
    def _ends(self) -> Int32[Tensor, " policies"]:
        """Where each policy's tokens end."""
        ends = torch.tensor(list(accumulate(self.sizes)), dtype=torch.int32)
        return moved(ends, self.bank.weights.device)

    @cached_property
    def _scale_of_token(self) -> Float[Tensor, "tokens one"]:
        scales = torch.tensor(self.scales).repeat_interleave(torch.tensor(self.sizes))
        return moved(scales[:, None], self.bank.weights.device)

    @cached_property
    def _masks(self) -> CountedMasks | None:
        return counted(self.dropouts, self.sizes, self.bank.weights.device) if self.kernels.counted else None

    def _stacked(self, x: Float[Tensor, "tokens k"]) -> Float[Tensor, "policies own k"]:
        """A view, for policies with equally many tokens."""
        return x.view(len(self.sizes), self.sizes[0], x.shape[1])

    def each(self, x: Float[Tensor, "tokens k"], factor: Float[Tensor, "policies k"]) -> Float[Tensor, "tokens k"]:
        """Each policy's tokens times its own numbers, in the type of x."""
        if self._even:
            return (self._stacked(x) * factor[:, None]).to(x.dtype).view(x.shape)
        return torch.cat([(own * row).to(x.dtype) for own, row in zip(x.split(self.sizes), factor, strict=True)])

    def sums(self, x: Float[Tensor, "tokens k"]) -> Float[Tensor, "policies k"]:
        """The sum of each policy's tokens, in float32 at least."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.stack([own.sum(0, dtype=dtype) for own in x.split(self.sizes)])

    def scale_(self, u: Float[Tensor, "tokens factors"]) -> Float[Tensor, "tokens factors"]:
        """Each policy's tokens times its scale, in place."""
        if len(set(self.scales)) == 1:
            return u.mul_(self.scales[0])
        if self.kernels.grouped:
            return u.mul_(self._scale_of_token)
        for own, scale in zip(u.split(self.sizes), self.scales, strict=True):
            own.mul_(scale)
        return u

    def dropped(self, x: Float[Tensor, "tokens d"], matrix: str) -> Float[Tensor, "tokens d"]:
        """x with each policy's dropout; the same mask at every call within a pass, so it is its own derivative."""
        if not any(self.dropouts):
            return x
        if self._masks is not None:
            return self._masks(x, matrix)
        pieces = x.split(self.sizes)
        return torch.cat(
            [
                piece if dropout is None else dropout(piece, matrix)
                for piece, dropout in zip(pieces, self.dropouts, strict=True)
            ]
        )


@dataclass(frozen=True)
class SlotRows:
    """One policy's share of a pass: its place in a bank, and its tokens."""

    bank: AdapterBank
    slot: int
    start: int
    tokens: int
    scale: float
    expert_scale: float
    dropout: Dropout | None


def slot_spans(members: Sequence[SlotRows], total: int, kernels: Kernels = CPU) -> list[SlotSpan]:
    """Members in the order of their tokens, `total` tokens in the pass → runs of neighbours in a bank."""
    runs: list[list[SlotRows]] = []
    for member in members:
        last = runs[-1][-1] if runs else None
        follows = last is not None and last.bank is member.bank and last.slot + 1 == member.slot
        if follows and last is not None and last.start + last.tokens == member.start:
            runs[-1].append(member)
        else:
            runs.append([member])
    return [
        SlotSpan(
            bank=run[0].bank,
            slots=slice(run[0].slot, run[-1].slot + 1),
            start=run[0].start,
            sizes=tuple(member.tokens for member in run),
            scales=tuple(member.scale for member in run),
            expert_scales=tuple(member.expert_scale for member in run),
            dropouts=tuple(member.dropout for member in run),
            total=total,
            kernels=kernels,
        )
        for run in runs
    ]


@contextmanager
def cast_once(spans: Sequence[SlotSpan], dtype: torch.dtype) -> Iterator[None]:
    """`AdapterBank.cast_once` of all members of some spans, while no weight changes."""
    slots: dict[AdapterBank, list[slice]] = {}
    for span in spans:
        slots.setdefault(span.bank, []).append(span.slots)
    with ExitStack() as stack:
        for bank, own in slots.items():
            known = slice(min(each.start for each in own), max(each.stop for each in own))
            stack.enter_context(bank.cast_once(known, dtype))
        yield


def _aligned(x: Float[Tensor, "*groups rows columns"]) -> bool:
    """Whether a matrix's rows, or its columns, are whole numbers of 16 bytes that begin at multiples of them."""
    size = x.element_size()
    dense = -1 if x.stride(-1) == 1 else -2
    steps = [step for place, step in enumerate(x.stride(), -x.ndim) if place != dense]
    return (
        x.stride(dense) == 1
        and x.shape[dense] * size % _BYTES == 0
        and all(step * size % _BYTES == 0 for step in steps)
        and x.data_ptr() % _BYTES == 0
    )
