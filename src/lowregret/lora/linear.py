"""A linear map that carries any number of LoRAs, each applied to its own tokens of the pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from lowregret.errors import TargetError
from lowregret.lora.bank import Bank
from lowregret.lora.dropout import Dropout

FEW_ROWS = 64
"""Rows up to which a step of decoding takes the product with a base's weight from the other side on a CPU."""


@dataclass(frozen=True)
class LoRAWeights:
    """A [rank, d_in] and B [d_out, rank] of one policy on one matrix, and the scale alpha / rank."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float

    def delta(self) -> Float[Tensor, "d_out d_in"]:
        """scale · B A: what is added to the weight when merging."""
        return (self.b * self.scale) @ self.a


@dataclass(frozen=True)
class Part:
    """Neighbours in one bank, and which tokens of the pass are theirs.

    When all have the same number of tokens, their products are one `bmm`; else one `mm` each. Gathering tokens into a
    padded tensor for `bmm` costs more than it saves on a CPU, and `grouped_mm` wants widths that are multiples of 16
    bytes (FINDINGS.md has the times).
    """

    bank: Bank
    slots: slice
    start: int
    """First token, in the flattened inputs."""
    sizes: tuple[int, ...]
    """Tokens of each policy, in the bank's order."""
    scales: tuple[float, ...]
    """alpha / rank of each policy."""
    dropouts: tuple[Dropout | None, ...]
    total: int
    """Tokens of all policies in the pass."""

    @property
    def tokens(self) -> slice:
        """All tokens of this part."""
        return slice(self.start, self.start + sum(self.sizes))

    def factors(
        self, matrix: str, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "policies rank d_in"], Float[Tensor, "policies d_out rank"]]:
        """A and B of each policy on one matrix, in the type of products."""
        return _as(self.bank.a(matrix, self.slots), dtype), _as(self.bank.b(matrix, self.slots), dtype)

    def times(self, x: Float[Tensor, "tokens k"], factor: Float[Tensor, "policies k m"]) -> Float[Tensor, "tokens m"]:
        """Each policy's tokens times its own matrix."""
        if self._even:
            return torch.bmm(self._stacked(x), factor).view(x.shape[0], -1)
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
        for into, one, other in zip(total, left.split(self.sizes), right.split(self.sizes), strict=True):
            if same:
                into.addmm_(one.T, other)
            else:
                into += one.T @ other

    @property
    def _even(self) -> bool:
        return len(set(self.sizes)) == 1

    def _stacked(self, x: Float[Tensor, "tokens k"]) -> Float[Tensor, "policies own k"]:
        """A view, for policies with equally many tokens."""
        return x.view(len(self.sizes), self.sizes[0], x.shape[1])

    def scale_(self, u: Float[Tensor, "tokens rank"]) -> Float[Tensor, "tokens rank"]:
        """Each policy's tokens times its alpha / rank, in place."""
        if len(set(self.scales)) == 1:
            return u.mul_(self.scales[0])
        for own, scale in zip(u.split(self.sizes), self.scales, strict=True):
            own.mul_(scale)
        return u

    def dropped(self, x: Float[Tensor, "tokens d"], matrix: str) -> Float[Tensor, "tokens d"]:
        """x with each policy's dropout; the same mask at every call within a pass, so it is its own derivative."""
        if not any(self.dropouts):
            return x
        pieces = x.split(self.sizes)
        return torch.cat(
            [
                piece if dropout is None else dropout(piece, matrix)
                for piece, dropout in zip(pieces, self.dropouts, strict=True)
            ]
        )


@dataclass(frozen=True)
class Member:
    """One policy's share of a pass: its place in a bank, and its tokens."""

    bank: Bank
    slot: int
    start: int
    tokens: int
    scale: float
    dropout: Dropout | None


def parts(members: Sequence[Member], total: int) -> list[Part]:
    """Members in the order of their tokens, `total` tokens in the pass → runs of neighbours in a bank."""
    runs: list[list[Member]] = []
    for member in members:
        last = runs[-1][-1] if runs else None
        follows = last is not None and last.bank is member.bank and last.slot + 1 == member.slot
        if follows and last is not None and last.start + last.tokens == member.start:
            runs[-1].append(member)
        else:
            runs.append([member])
    return [
        Part(
            bank=run[0].bank,
            slots=slice(run[0].slot, run[-1].slot + 1),
            start=run[0].start,
            sizes=tuple(member.tokens for member in run),
            scales=tuple(member.scale for member in run),
            dropouts=tuple(member.dropout for member in run),
            total=total,
        )
        for run in runs
    ]


@dataclass
class Routing:
    """Which tokens belong to which policies in the current pass; shared by all adapted matrices of an engine.

    `tokens` is for inputs of all positions, `positions` for the unembedding when only supervised ones reach it. Tokens
    of no policy pass through the base alone.
    """

    tokens: Sequence[Part] = ()
    positions: Sequence[Part] | None = None
    """None when the unembedding sees every token."""
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """Ties outputs to the graph though no input may need a gradient: adapters get theirs as a side effect."""


class LoRALinear(nn.Module):
    """y = base(x), plus each policy's update on that policy's tokens."""

    def __init__(self, name: str, base: nn.Module, routing: Routing, *, unembedding: bool = False) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear | Conv1D) or type(base).forward not in (nn.Linear.forward, Conv1D.forward):
            raise TargetError(f"{name} is a {type(base).__name__}, no plain matrix. Leave it out with re:REGEX.")
        self.name = name
        self.base = base
        self.routing = routing
        self.unembedding = unembedding
        self.banks: list[Bank] = []

    @property
    def weight(self) -> Tensor:
        """The base's weight: some models read a linear map's weight (its dtype, its device) directly."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """[..., d_in] → [..., d_out] for the tokens of the current pass, in its order."""
        parts = [part for part in self._parts(x.numel() // x.shape[-1]) if part.bank in self.banks]
        if not parts:
            y: Tensor = self.base(x)
            return y
        weight = self.base.weight.T if isinstance(self.base, Conv1D) else self.base.weight
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
        flat = _as(x.reshape(-1, x.shape[-1]), dtype)
        # A step of decoding is [rows, 1, d_in]; other passes compute as the bare base does, to the bit.
        decoding = x.device.type == "cpu" and x.shape[-2:-1] == (1,) and len(flat) <= FEW_ROWS
        y = _Product.apply(flat, self.routing.anchor, weight, self.base.bias, self.name, parts, decoding)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def _parts(self, tokens: int) -> Sequence[Part]:
        if self.unembedding and self.routing.positions is not None:
            return self.routing.positions
        parts = self.routing.tokens
        if parts and tokens != parts[0].total:
            raise TargetError(
                f"{self.name} gets {tokens} tokens in a pass of {parts[0].total}: the base sends it a selection of "
                "them, so whose they are is not known. Leave it out with re:REGEX."
            )
        return parts


class _Product(torch.autograd.Function):
    """x Wᵀ + bias + scale · x Aᵀ Bᵀ, keeping x and scale · x Aᵀ for the backward pass and nothing else.

    The gradients of A and B are added straight to their bank, in float32; W is frozen and gets none. Shapes: x [tokens,
    d_in], W [d_out, d_in].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        matrix: str,
        parts: Sequence[Part],
        decoding: bool,
    ) -> Tensor:
        frozen = _as(weight, x.dtype).T
        y = _transposed_product(x, frozen, bias) if decoding else _product(x, frozen, bias)
        low_rank = []
        for part in parts:
            a, b = part.factors(matrix, x.dtype)
            u = part.scale_(part.times(part.dropped(x[part.tokens], matrix), a.transpose(1, 2)))
            part.add_times(y[part.tokens], u, b.transpose(1, 2))
            low_rank.append(u)
        ctx.save_for_backward(x, weight, *low_rank)
        ctx.matrix, ctx.parts = matrix, parts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *low_rank = ctx.saved_tensors
        matrix: str = ctx.matrix
        dy = dy.contiguous()  # what follows views it by policy
        dx = dy @ _as(weight, dy.dtype) if ctx.needs_input_grad[0] else None
        for part, u in zip(ctx.parts, low_rank, strict=True):
            a, b = part.factors(matrix, dy.dtype)
            own = dy[part.tokens]
            du = part.scale_(part.times(own, b))
            part.add_outer(part.bank.b_gradient(matrix, part.slots), own, u)
            part.add_outer(part.bank.a_gradient(matrix, part.slots), du, part.dropped(x[part.tokens], matrix))
            if dx is None:
                continue
            if any(part.dropouts):
                dx[part.tokens] += part.dropped(part.times(du, a), matrix)
            else:
                part.add_times(dx[part.tokens], du, a)
        return dx, None, None, None, None, None, None


def _product(
    x: Float[Tensor, "tokens d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "tokens d_out"]:
    return x @ weight if bias is None else torch.addmm(_as(bias, x.dtype), x, weight)


def _transposed_product(
    x: Float[Tensor, "tokens d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "tokens d_out"]:
    """The same, as (Wᵀ xᵀ)ᵀ: with few rows a CPU reads the weights faster that way round (FINDINGS.md has times)."""
    y = torch.mm(weight.T, x.T).T.contiguous()
    return y if bias is None else y.add_(_as(bias, x.dtype))


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, without the microseconds that a call costs when there is nothing to do."""
    return x if x.dtype is dtype else x.to(dtype)


def trained(
    linear: LoRALinear, part: Part, member: int, x: Float[Tensor, "tokens d_in"]
) -> tuple[Float[Tensor, "tokens rank"], Float[Tensor, "d_out rank"]]:
    """(scale · x Aᵀ, B) of one member of a part on one matrix, for whoever takes the last product elsewhere.

    Gradients of A and B go to the bank, as everywhere.
    """
    slots = slice(part.slots.start + member, part.slots.start + member + 1)
    bank, anchor = part.bank, linear.routing.anchor
    training = torch.is_grad_enabled()
    factors = []
    for value, gradient in ((bank.a, bank.a_gradient), (bank.b, bank.b_gradient)):
        own = value(linear.name, slots)[0]
        if training:
            own = _Trained.apply(own, anchor, gradient(linear.name, slots)[0])  # type: ignore[no-untyped-call]
        factors.append(own)
    dropout = part.dropouts[member]
    dropped = x if dropout is None else dropout(x, linear.name)
    return nn.functional.linear(dropped, factors[0]) * part.scales[member], factors[1]


class _Trained(torch.autograd.Function):
    """A bank's values as they are, with their gradient added to the bank's."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[None, None, None]:
        ctx.gradient.add_(d)
        return None, None, None
