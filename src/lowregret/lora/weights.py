"""One policy's weights on one matrix, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowregret.lora.bank import updates


@dataclass(frozen=True)
class LoRAWeights:
    """A [rank, d_in] and B [d_out, rank] of one policy on one matrix, and the scale of their product."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    initial: tuple[Tensor, Tensor] | None = None
    """A and B at the start, whose product is taken off; None when it is zero."""
    magnitude: nn.Parameter | None = None
    """DoRA's, [d_out]; None without."""

    def factors(self) -> tuple[Float[Tensor, "factors d_in"], Float[Tensor, "d_out factors"]]:
        """(A′, B′) with B′ A′ = B A − B₀ A₀: a plain LoRA of the same scale, of twice the rank if it has a start."""
        return (self.a, self.b) if self.initial is None else updates(self.a, self.b, *self.initial)

    def delta(self) -> Float[Tensor, "d_out d_in"]:
        """scale · B′ A′: what is added to the weight when merging."""
        a, b = self.factors()
        return (b * self.scale) @ a

    @torch.no_grad()
    def shipped(
        self, weight: Float[Tensor, "d_out d_in"] | None
    ) -> tuple[Float[Tensor, "factors d_in"], Float[Tensor, "d_out factors"]]:
        """`factors` as PEFT can use them: it divides by the norm of an adapted row of zeros, whose magnitude is zero.

        Such a row gets an update too small to matter, so that its norm is none. `weight` is read for DoRA alone.
        """
        a, b = self.factors()
        if self.magnitude is not None and weight is not None:
            b = torch.where(row_norms(weight, a, b, self.scale)[:, None] == 0, 1e-12, b)
        return a, b

    def merged(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
        """The adapted weight, computed in the type of A and B and rounded once to its own."""
        whole = weight.to(self.a.dtype)
        return (whole + change(whole, *self.factors(), self.scale, self.magnitude)).to(weight.dtype)


def change(
    weight: Float[Tensor, "rows d_in"],
    a: Float[Tensor, "factors d_in"],
    b: Float[Tensor, "rows factors"],
    scale: float,
    magnitude: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows d_in"]:
    """What a merge adds to some rows of a weight, all of one type: scale · B A, or with DoRA's magnitudes the weight
    that they make less the weight that was."""
    delta: Tensor = (b * scale) @ a
    if magnitude is None:
        return delta
    gain = magnitude / divisors(row_norms(weight, a, b, scale))
    return (weight + delta) * gain[:, None] - weight


@torch.no_grad()
def row_norms(
    weight: Float[Tensor, "d_out d_in"],
    a: Float[Tensor, "factors d_in"],
    b: Float[Tensor, "d_out factors"],
    scale: float,
    add_up: Callable[[Tensor], None] | None = None,
) -> Float[Tensor, " d_out"]:
    """‖W + scale · B A‖ of each row, in the type of A and B: what DoRA's magnitudes take the place of.

    Without gradient, as section 4.3 of arXiv 2402.09353 has it. Autocast is off: a norm in bfloat16 would be off by
    more than a step of training changes it. `add_up` adds up squares where other processes hold the rest of the rows.
    """
    with torch.autocast(weight.device.type, enabled=False):
        norms: Tensor = torch.linalg.vector_norm(torch.addmm(weight.to(a.dtype), b * scale, a), dim=1)
        if add_up is not None:
            add_up(norms.square_())
            norms.sqrt_()
    return norms


def divisors(norms: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
    """Norms to divide by: 1 for a row of zeros (a tied unembedding has one for the padding token).

    It has no direction to keep; its magnitude starts as 0, gets no gradient, and so it stays.
    """
    return norms.masked_fill(norms == 0, 1.0)
