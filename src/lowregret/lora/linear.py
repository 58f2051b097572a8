"""A linear map that carries any number of LoRAs, each applied to its own tokens of the pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from lowregret.errors import TargetError
from lowregret.lora.bank import AdapterBank, updates
from lowregret.lora.decoding import as_type, base_product, transposed, transposed_product
from lowregret.lora.dora import magnified, span_norms
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotSpan


class LoRALinear(nn.Module):
    """y = base(x), plus each policy's update on that policy's tokens."""

    def __init__(self, name: str, base: nn.Module, routing: PolicyRouting, *, unembedding: bool = False) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear | Conv1D) or type(base).forward not in (nn.Linear.forward, Conv1D.forward):
            remedy = "by the targets `linear`" if unembedding else "with re:REGEX"
            raise TargetError(f"{name} is a {type(base).__name__}, no plain matrix. Leave it out {remedy}.")
        self.name = name
        self.base = base
        self.routing = routing
        self.unembedding = unembedding
        self.banks: list[AdapterBank] = []

    @property
    def weight(self) -> Tensor:
        """The base's weight: some models read a linear map's weight (its dtype, its device) directly."""
        return self.base.weight

    @property
    def matrix(self) -> Float[Tensor, "d_out d_in"]:
        """The base's weight the way round it multiplies, for Conv1D too; outside a pass it may lie in parts."""
        weight: Tensor = self.base.weight.detach()
        return weight.T if isinstance(self.base, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return self.base.bias

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """[..., d_in] → [..., d_out] for the tokens of the current pass, in its order."""
        routed = self._spans(x.numel() // x.shape[-1])
        spans = [span for span in routed if span.bank in self.banks]
        if not spans:
            return base_product(self.base, x)
        weight = self.base.weight.T if isinstance(self.base, Conv1D) else self.base.weight
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weight.dtype
        flat = as_type(x.reshape(-1, x.shape[-1]), dtype)
        anchor, bias = self.routing.anchor, self.base.bias
        dora = [span for span in spans if span.bank.layout.dora]
        plain = [span for span in spans if not span.bank.layout.dora] if dora else spans
        y: Tensor
        if torch.is_grad_enabled():
            y = _Product.apply(flat, anchor, weight, bias, self.name, plain)  # type: ignore[no-untyped-call]
        else:
            y = (transposed_product if transposed(x) else _product)(flat, as_type(weight, dtype).T, bias)
            for update in self.routing.updates(routed, plain, self.name, dtype):
                update.add(y, flat)
        if dora:
            y = magnified(flat, y, weight, bias, self.name, dora, self.routing)
        return y.view(*x.shape[:-1], -1)

    def _spans(self, tokens: int) -> Sequence[SlotSpan]:
        if self.unembedding and self.routing.positions is not None:
            return self.routing.positions
        spans = self.routing.tokens
        if spans and tokens != spans[0].total:
            raise TargetError(
                f"{self.name} gets {tokens} tokens in a pass of {spans[0].total}: the base sends it a selection of "
                "them, so whose they are is not known. Leave it out with re:REGEX."
            )
        return spans


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
        spans: Sequence[SlotSpan],
    ) -> Tensor:
        updates = []
        for span in spans:
            a, b = span.factors(matrix, x.dtype)
            u = span.scale_(span.times(span.dropped(x[span.tokens], matrix), a.transpose(1, 2)))
            updates.append((u, b.transpose(1, 2)))
        y = _with_updates(x, as_type(weight, x.dtype).T, bias, spans, updates)
        low_rank = [span.trained(u) for span, (u, _) in zip(spans, updates, strict=True)]
        ctx.save_for_backward(x, weight, *low_rank)
        ctx.matrix, ctx.spans = matrix, spans
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *low_rank = ctx.saved_tensors
        matrix: str = ctx.matrix
        dy = dy.contiguous()  # what follows views it by policy
        updates = []
        for span, u in zip(ctx.spans, low_rank, strict=True):
            a, b = span.factors(matrix, dy.dtype)
            own = dy[span.tokens]
            du = span.scale_(span.times(own, b))
            span.add_outer(span.bank.b_gradient(matrix, span.slots), own, u)
            of_a = span.bank.a_gradient(matrix, span.slots)
            span.add_outer(of_a, span.trained_gradient(du), span.dropped(x[span.tokens], matrix))
            updates.append((du, a))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        weight = as_type(weight, dy.dtype)
        if not any(any(span.dropouts) for span in ctx.spans):
            return _with_updates(dy, weight, None, ctx.spans, updates), None, None, None, None, None
        dx = dy @ weight
        for span, (du, a) in zip(ctx.spans, updates, strict=True):
            dx[span.tokens] += span.dropped(span.times(du, a), matrix)
        return dx, None, None, None, None, None


def _with_updates(
    x: Float[Tensor, "tokens k"],
    weight: Float[Tensor, "k m"],
    bias: Float[Tensor, " m"] | None,
    spans: Sequence[SlotSpan],
    updates: Sequence[tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _ m"]]],
) -> Float[Tensor, "tokens m"]:
    """x · weight + bias, and on each span's tokens the product of its update, in the order that moves least."""
    if len(spans) == 1 and bias is None and spans[0].before_base(*updates[0]):
        return spans[0].times(*updates[0]).addmm_(x, weight)
    y = _product(x, weight, bias)
    for span, update in zip(spans, updates, strict=True):
        span.add_times(y[span.tokens], *update)
    return y


def _product(
    x: Float[Tensor, "tokens d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "tokens d_out"]:
    return x @ weight if bias is None else torch.addmm(as_type(bias, x.dtype), x, weight)


def adapted_product(
    linear: LoRALinear, span: SlotSpan, index: int, x: Float[Tensor, "tokens d_in"], weight: Float[Tensor, "d_out d_in"]
) -> tuple[
    Float[Tensor, "tokens k"], Float[Tensor, "d_out k"], tuple[Float[Tensor, "tokens n"], Float[Tensor, "d_out n"]]
]:
    """(x′, W′, (u, B′)) of one index of a span on one matrix, for whoever takes the products elsewhere.

    The adapted output is x′ W′ᵀ + u B′ᵀ + bias. x′ and W′ are x and W, but for DoRA. Gradients of what trains go to the
    bank, as everywhere.
    """
    bank, anchor, name = span.bank, linear.routing.anchor, linear.name
    slots = slice(span.slots.start + index, span.slots.start + index + 1)
    a, b = trained_factors(anchor, name, bank, slots)
    dropout = span.dropouts[index]
    dropped = x if dropout is None else dropout(x, name)
    u = nn.functional.linear(dropped, a) * span.scales[index]
    if not bank.layout.dora:
        return x, weight, (u, b)
    norm = span_norms(span, name, weight, linear.routing)[index]
    gain = (_trained(anchor, name, slots, bank.magnitudes, bank.magnitudes_gradient) / norm)[:, None]
    if dropout is None:
        return x, gain * weight, (u, gain * b)
    return torch.cat([x, dropped], 1), torch.cat([weight.to(gain.dtype), (gain - 1) * weight], 1), (u, gain * b)


def trained_factors(
    anchor: Tensor, matrix: str, bank: AdapterBank, slot: slice
) -> tuple[Float[Tensor, "factors d_in"], Float[Tensor, "d_out factors"]]:
    """`AdapterBank.factors` of one index, from which gradients flow to the bank by autograd."""
    a = _trained(anchor, matrix, slot, bank.a, bank.a_gradient)
    b = _trained(anchor, matrix, slot, bank.b, bank.b_gradient)
    start = bank.start(matrix, slot)
    return (a, b) if start is None else updates(a, b, start[0][0], start[1][0])


def _trained(anchor: Tensor, matrix: str, slot: slice, values: Any, gradients: Any) -> Tensor:
    own: Tensor = values(matrix, slot)[0]
    if torch.is_grad_enabled():
        own = _Trained.apply(own, anchor, gradients(matrix, slot)[0])  # type: ignore[no-untyped-call]
    return own


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
