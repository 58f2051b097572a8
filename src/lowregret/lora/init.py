"""How a LoRA starts: `INITIALISATIONS`, by the names that `LoRA.init` has for them.

An entry is all that a new one needs here; its name goes into the spec's `Init`, which stays free of torch, and the laws
(tests/laws/test_adapters.py) run over both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.errors import TargetError
from lowregret.lora.bank import AdapterLayout, rank_on
from lowregret.models.sharded import whole
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA

Start = tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]
"""A and B."""


def initial(method: LoRA, matrix: Matrix, weight: Float[Tensor, "d_out d_in"], generator: torch.Generator) -> Start:
    """A and B of a method on one matrix, whose weight is read by the residual ones only."""
    return INITIALISATIONS[method.init].start(method, matrix, weight, generator)


def expert_start(
    method: LoRA, matrix: Matrix, generator: torch.Generator
) -> tuple[Float[Tensor, "a_experts rank d_in"], Float[Tensor, "b_experts d_out rank"]]:
    """A and B of a method on one matrix of every expert; TargetError for a variant that is not built there."""
    variants = {"dora": method.dora, "dropout": method.dropout > 0, method.init: method.init != "uniform"}
    if asked := [name for name, there in variants.items() if there]:
        raise TargetError(
            f"{matrix.name}: on experts, a LoRA with {' and '.join(asked)} is not built. Leave it out, or leave the "
            "experts out with the target `attention`."
        )
    (a_copies, *_), (b_copies, *_) = AdapterLayout.of(method, [matrix]).shapes(matrix)
    rank = rank_on(method, matrix)
    a, _ = uniform(replace(matrix, d_out=1), rank * a_copies, generator)
    return a.view(a_copies, rank, matrix.d_in) * method.init_scale, torch.zeros(b_copies, matrix.d_out, rank)


def uniform(
    matrix: Matrix, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """A uniform on ±1/√d_in, B zero (SCIENCE 2): the adapted base starts as the base, exactly.

    Drawn in float32 on the CPU, so that a seed gives the same adapter on every device.
    """
    bound = 1.0 / math.sqrt(matrix.d_in)
    a = torch.empty(rank, matrix.d_in).uniform_(-bound, bound, generator=generator)
    return a, torch.zeros(matrix.d_out, rank)


def orthogonal(
    matrix: Matrix, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """A and B whose rows and columns are mixtures of two halves of an orthogonal matrix: B A = 0 but for rounding.

    As PEFT's `init_lora_weights="orthogonal"`: with Q of a normal [rank, rank] matrix, A = (N Q_even)ᵀ / 10 and
    B = N' Q_odd / 10, N and N' normal. Drawn on the CPU, in PEFT's order. The rank is even.
    """
    q, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
    a = (torch.randn(matrix.d_in, rank // 2, generator=generator) @ q[0::2]).T / 10
    b = torch.randn(rank // 2, matrix.d_out, generator=generator).T @ q[1::2] / 10
    return a.contiguous(), b.contiguous()


@torch.no_grad()
def pissa(
    weight: Float[Tensor, "d_out d_in"], rank: int, scale: float
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """The `rank` largest singular values of W = U S Vᵀ: A = √(S / scale) Vᵀ, B = U √(S / scale) (arXiv 2404.02948).

    A singular pair's sign is free: the largest number of each column of B is positive.
    """
    u, s, vh = torch.linalg.svd(_precise(weight), full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    sign = u[:, :rank].gather(0, u[:, :rank].abs().argmax(0, keepdim=True)).sign()
    return _filled(root[:, None] * vh[:rank] * sign.T, u[:, :rank] * root * sign, rank)


@torch.no_grad()
def olora(
    weight: Float[Tensor, "d_out d_in"], rank: int
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """The first `rank` columns of Q, as B, and rows of R, as A, of W = Q R (arXiv 2406.01775).

    A pair's sign is free: the diagonal of R is positive.
    """
    q, r = torch.linalg.qr(_precise(weight))
    sign = torch.where(r.diagonal() < 0, -1.0, 1.0)[:rank].to(r.dtype)
    return _filled(r[:rank] * sign[:, None], q[:, :rank] * sign, rank)


def _precise(weight: Tensor) -> Tensor:
    """float32 at least, where the weight is, and all of one in parts; under autocast these factorizations stay so."""
    return whole(weight.detach()).to(torch.promote_types(weight.dtype, torch.get_default_dtype()))


def _filled(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Ranks beyond those of W are zero, and stay so: W has no more to give. In the type of all adapters."""
    missing = rank - a.shape[0]
    if missing:
        a = torch.cat([a, a.new_zeros(missing, a.shape[1])])
        b = torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1)
    dtype = torch.get_default_dtype()
    return a.to(dtype), b.to(dtype)


def _start_uniform(
    method: LoRA, matrix: Matrix, weight: Float[Tensor, "d_out d_in"], generator: torch.Generator
) -> Start:
    a, b = uniform(matrix, method.rank, generator)
    return (a if method.init_scale == 1 else a * method.init_scale), b


def _start_pissa(
    method: LoRA, matrix: Matrix, weight: Float[Tensor, "d_out d_in"], generator: torch.Generator
) -> Start:
    return pissa(weight, method.rank, method.scale)


def _start_olora(
    method: LoRA, matrix: Matrix, weight: Float[Tensor, "d_out d_in"], generator: torch.Generator
) -> Start:
    return olora(weight, method.rank)


def _start_orthogonal(
    method: LoRA, matrix: Matrix, weight: Float[Tensor, "d_out d_in"], generator: torch.Generator
) -> Start:
    return orthogonal(matrix, method.rank, generator)


@dataclass(frozen=True)
class Initialisation:
    """One way to start A and B."""

    start: Callable[[LoRA, Matrix, Tensor, torch.Generator], Start]
    """(method, matrix, weight [d_out, d_in], generator) → A [rank, d_in] and B [d_out, rank]."""
    source: str
    residual: bool = False
    """Whether A and B are a part of the weight, so that B A is not zero and is taken off again."""
    exact: bool = True
    """Whether what is added at the start is zero to the bit; else to rounding."""
    even_rank: bool = False
    """Whether the rank must be even."""
    scaled: bool = False
    """Whether `init_scale` multiplies A."""
    peft: str | bool | None = None
    """PEFT's `init_lora_weights` that starts the same way; None where it has none."""


INITIALISATIONS: Mapping[str, Initialisation] = {
    "uniform": Initialisation(_start_uniform, "docs/science.md 2", scaled=True, peft=True),
    "pissa": Initialisation(_start_pissa, "arXiv 2404.02948", residual=True, peft="pissa"),
    "olora": Initialisation(_start_olora, "arXiv 2406.01775", residual=True, peft="olora"),
    "orthogonal": Initialisation(
        _start_orthogonal, "PEFT's orthogonal", exact=False, even_rank=True, peft="orthogonal"
    ),
}
