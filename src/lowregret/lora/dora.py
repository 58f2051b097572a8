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

from lowregret.lora.parts import Norms, Part
from lowregret.lora.weights import divisors, row_norms


def magnified(
    x: Float[Tensor, "tokens d_in"],
    y: Float[Tensor, "tokens d_out"],
    anchor: Tensor,
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None,
    matrix: str,
    parts: Sequence[Part],
    norms: Norms | None,
) -> Float[Tensor, "tokens d_out"]:
    """y = x Wᵀ + bias, with the tokens of DoRA's parts as the formula says, and the others as they are."""
    cuts: list[int] = []
    for part in parts:
        cuts += [part.start - sum(cuts), sum(part.sizes)]
    cuts.append(len(x) - sum(cuts))
    inputs, outputs = x.split(cuts), list(y.split(cuts))
    for number, part in enumerate(parts):
        place = 2 * number + 1
        found = part_norms(part, matrix, weight, norms)
        outputs[place] = _Magnified.apply(  # type: ignore[no-untyped-call]
            inputs[place], outputs[place], anchor, weight, bias, matrix, part, found
        )
    outputs = [piece for piece in outputs if len(piece)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def part_norms(
    part: Part, matrix: str, weight: Float[Tensor, "d_out d_in"], norms: Norms | None
) -> Float[Tensor, "policies d_out"]:
    """‖W + s B A‖ of each row for each policy, to divide by, from `norms` where they are known."""
    found = []
    names = part.bank.members[part.slots]
    for member, (name, scale) in enumerate(zip(names, part.scales, strict=True)):
        known = None if norms is None else norms.get((matrix, name))
        if known is None:
            slot = part.slots.start + member
            a, b = part.bank.factors(matrix, slice(slot, slot + 1), part.bank.weights.dtype)
            known = divisors(row_norms(weight, a[0], b[0], scale))
            if norms is not None:
                norms[matrix, name] = known
        found.append(known)
    return torch.stack(found)


class _Magnified(torch.autograd.Function):
    """The tokens of one part. Gradients of A, B and m are added straight to their bank, in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        anchor: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        matrix: str,
        part: Part,
        norms: Tensor,
    ) -> Tensor:
        a, b = part.factors(matrix, x.dtype)
        dropped = part.dropped(x, matrix)
        u = part.scale_(part.times(dropped, a.transpose(1, 2)))
        added = part.times(u, b.transpose(1, 2))
        base = y if bias is None else y - bias.to(y.dtype)
        if any(part.dropouts):
            base = dropped @ weight.to(x.dtype).T
        gains = part.bank.magnitudes(matrix, part.slots) / norms
        ctx.save_for_backward(x, weight, part.trained(u), base + added)
        ctx.matrix, ctx.part, ctx.gains, ctx.norms = matrix, part, gains, norms
        # Not c ⊙ (…): where c is 1, as at the start, this is the base to the bit.
        return y + part.each(base, gains - 1) + part.each(added, gains)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, u, adapted = ctx.saved_tensors
        matrix: str = ctx.matrix
        part: Part = ctx.part
        dy = dy.contiguous()
        a, b = part.factors(matrix, dy.dtype)
        own = part.each(dy, ctx.gains)
        du = part.scale_(part.times(own, b))
        part.add_outer(part.bank.b_gradient(matrix, part.slots), own, u)
        part.add_outer(part.bank.a_gradient(matrix, part.slots), part.trained_gradient(du), part.dropped(x, matrix))
        of_magnitudes = part.bank.magnitudes_gradient(matrix, part.slots)
        of_magnitudes += part.sums(dy * adapted) / ctx.norms
        dropout = any(part.dropouts)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = part.times(du, a)
            if dropout:
                dx = part.dropped(dx.addmm_(own - dy, weight.to(dy.dtype)), matrix)
        return dx, (dy if dropout else own), None, None, None, None, None, None
