"""A linear map that carries any number of LoRAs, each applied to its own rows of the batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lowregret.errors import TargetError


@dataclass
class Routing:
    """Which rows belong to which policy in the current pass; shared by all adapted matrices of an engine.

    `rows` splits the batch dimension of [rows, length, d] inputs; `positions` splits [positions, d] inputs, which the
    unembedding sees because only supervised positions reach it. Rows of no policy pass through the base alone.
    """

    rows: list[tuple[str, int, int]] = field(default_factory=list)
    positions: list[tuple[str, int, int]] = field(default_factory=list)
    length: int = 0
    """Positions in a row of the current pass."""


class LoRAWeights(nn.Module):
    """A [rank, d_in] and B [d_out, rank] of one policy on one matrix, and the scale alpha / rank."""

    def __init__(self, a: Float[Tensor, "rank d_in"], b: Float[Tensor, "d_out rank"], scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(b)
        self.scale = scale

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """scale · x Aᵀ Bᵀ."""
        update: Tensor = F.linear(F.linear(x, self.a), self.b * self.scale)
        return update

    def delta(self) -> Float[Tensor, "d_out d_in"]:
        """scale · B A: what is added to the weight when merging."""
        return (self.b * self.scale) @ self.a


class LoRALinear(nn.Module):
    """y = base(x), plus each policy's update on that policy's rows."""

    def __init__(self, base: nn.Module, routing: Routing, *, unembedding: bool = False) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.unembedding = unembedding
        self.adapters: dict[str, LoRAWeights] = {}  # a plain dict: policies own their weights, the model does not

    @property
    def weight(self) -> Tensor:
        """The base's weight: some models read a linear map's weight (its dtype, its device) directly."""
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """[rows, length, d_in] → [rows, length, d_out], or [positions, d_in] → [positions, d_out]."""
        y: Tensor = self.base(x)
        segments = self._segments(x)
        if len(segments) == 1 and segments[0][0] in self.adapters and segments[0][2] - segments[0][1] == x.shape[0]:
            update: Tensor = self.adapters[segments[0][0]](x)
            return y + update.to(y.dtype)
        for policy, start, stop in segments:
            if policy in self.adapters:
                y[start:stop] += self.adapters[policy](x[start:stop])
        return y

    def _segments(self, x: Tensor) -> list[tuple[str, int, int]]:
        """Whose are which slices of the first dimension of x."""
        if x.ndim == 2 and self.unembedding:
            return self.routing.positions
        # Some bases flatten [rows, length, d] before a matrix: OPT's MLP, shared experts.
        rows, length = self.routing.rows, self.routing.length if x.ndim == 2 else 1
        if rows and x.shape[0] != rows[-1][2] * length:
            raise TargetError(
                f"a targeted matrix gets an input of shape {tuple(x.shape)} for a batch of {rows[-1][2]} rows: the "
                "base sends it a selection of them, so whose they are is not known. Leave it out with re:REGEX."
            )
        return [(policy, start * length, stop * length) for policy, start, stop in rows]
