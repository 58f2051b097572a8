"""DoRA: the rows of an adapted W keep a magnitude of their own, which trains apart from their direction.

    y = c ⊙ (W x + s B A x) + bias,     c = m / ‖W + s B A‖ of each row, the norm without gradient

(arXiv 2402.09353, section 4.3, and PEFT's `use_dora`). Dropout belongs to all that DoRA adds to the base's output, as
in PEFT and in the authors' code: with x̃ the inputs after it, y = W x + bias + (c − 1) ⊙ W x̃ + c ⊙ s B A x̃.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotSpan
from lowregret.lora.weights import divisors, row_norms


def magnified(
    x: Float[Tensor, "tokens d_in"],
    y: Float[Tensor, "tokens d_out"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None,
    matrix: str,
    spans: Sequence[SlotSpan],
    routing: PolicyRouting,
) -> Float[Tensor, "tokens d_out"]:
    """y = x Wᵀ + bias, with the tokens of DoRA's spans as the formula says, and the others as they are."""
    cuts: list[int] = []
    for span in spans:
        cuts += [span.start - sum(cuts), sum(span.sizes)]
    cuts.append(len(x) - sum(cuts))
    inputs, outputs = x.split(cuts), list(y.split(cuts))
    for number, span in enumerate(spans):
        place = 2 * number + 1
        found = span_norms(span, matrix, weight, routing)
        outputs[place] = _Magnified.apply(  # type: ignore[no-untyped-call]
            inputs[place], outputs[place], routing.anchor, weight, bias, matrix, span, found
        )
    outputs = [piece for piece in outputs if len(piece)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def span_norms(
    span: SlotSpan, matrix: str, weight: Float[Tensor, "d_out d_in"], routing: PolicyRouting
) -> Float[Tensor, "policies d_out"]:
    """‖W + s B A‖ of each row for each policy, to divide by, from what the routing knows of them."""
    norms = routing.norms
    found = []
    names = span.bank.members[span.slots]
    for index, (name, scale) in enumerate(zip(names, span.scales, strict=True)):
        known = None if norms is None else norms.get((matrix, name))
        if known is None:
            slot = span.slots.start + index
            a, b = span.bank.factors(matrix, slice(slot, slot + 1), span.bank.weights.dtype)
            known = divisors(row_norms(weight, a[0], b[0], scale, routing.add_up.get(matrix)))
            if norms is not None:
                norms[matrix, name] = known
        found.append(known)
    return torch.stack(found)


class _Magnified(torch.autograd.Function):
    """The tokens of one span. Gradients of A, B and m are added straight to their bank, in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        anchor: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        matrix: str,
        span: SlotSpan,
        norms: Tensor,
    ) -> Tensor:
        a, b = span.factors(matrix, x.dtype)
        dropped = span.dropped(x, matrix)
        u = span.scale_(span.times(dropped, a.transpose(1, 2)))
        added = span.times(u, b.transpose(1, 2))
        base = y if bias is None else y - bias.to(y.dtype)
        if any(span.dropouts):
            base = dropped @ weight.to(x.dtype).T
        gains = span.bank.magnitudes(matrix, span.slots) / norms
        ctx.save_for_backward(x, weight, span.trained(u), base + added)
        ctx.matrix, ctx.span, ctx.gains, ctx.norms = matrix, span, gains, norms
        # Not c ⊙ (…): where c is 1, as at the start, this is the base to the bit.
        return y + span.each(base, gains - 1) + span.each(added, gains)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, u, adapted = ctx.saved_tensors
        matrix: str = ctx.matrix
        span: SlotSpan = ctx.span
        dy = dy.contiguous()
        a, b = span.factors(matrix, dy.dtype)
        own = span.each(dy, ctx.gains)
        du = span.scale_(span.times(own, b))
        span.add_outer(span.bank.b_gradient(matrix, span.slots), own, u)
        span.add_outer(span.bank.a_gradient(matrix, span.slots), span.trained_gradient(du), span.dropped(x, matrix))
        of_magnitudes = span.bank.magnitudes_gradient(matrix, span.slots)
        of_magnitudes += span.sums(dy * adapted) / ctx.norms
        dropout = any(span.dropouts)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = span.times(du, a)
            if dropout:
                dx = span.dropped(dx.addmm_(own - dy, weight.to(dy.dtype)), matrix)
        return dx, (dy if dropout else own), None, None, None, None, None, None
