"""Starts that are taken from the weight, or have a product of zero."""

from __future__ import annotations

import pytest
import torch

from lowregret.lora.init import initial, olora, orthogonal, pissa, uniform
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA

SHAPES = [(12, 8), (8, 12), (10, 10)]


def weight(d_out: int, d_in: int) -> torch.Tensor:
    return torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(d_out))


def rounding(w: torch.Tensor, rank: int) -> float:
    """A bound on the rounding of a factorisation W ≈ s · B A in float32 and of what is computed from it, in ‖·‖₂.

    With ε = 2⁻²³ (u = ε/2 the unit roundoff), σ₁ ≥ σ₂ ≥ … the singular values of W, p = max(d_out, d_in):
    - A backward stable SVD or QR gives the exact factors of W + E, ‖E‖₂ ≤ p ε σ₁, as orthonormal matrices that are off
      by p ε each (LAPACK Users' Guide, 4.9 and 4.6; p(m, n) taken as max(m, n), as usual). Cutting the sum off after
      `rank` terms leaves W₍ᵣ₎ of W + E, so no gap between singular values matters: 3 p ε σ₁ together.
    - √(σ / s), its product with a vector and the sign: 2½ u for each number of A and of B, so 5 u σᵢ in each term
      s · bᵢ aᵢ; the product of A and B: γ_r = r u times |s B| |A|, whose norm is at most Σ σᵢ; the scale: u.
      Together (r/2 + 3) ε Σ σᵢ over i ≤ r.
    - The difference from W: u σ₁. The singular values of what is left, and those of W that they are compared with:
      p ε σ₁ each; by Weyl, they move by no more than the matrix.
    The sum is ε · (6 p σ₁ + (r/2 + 3) Σ σᵢ). Products such as A Aᵀ or Bᵀ W sum p numbers instead of r, p u σ₁, and
    have less of the rest.
    """
    values = torch.linalg.svdvals(w.double())
    return float(2**-23 * (6 * max(w.shape) * values[0] + (rank / 2 + 3) * values[:rank].sum()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_pissa_is_the_best_approximation_of_its_rank(shape: tuple[int, int], scale: float) -> None:
    """Eckart and Young: what is left has the other singular values; A and B share the roots evenly."""
    w = weight(*shape)
    a, b = pissa(w, 3, scale)
    values = torch.linalg.svdvals(w)
    left = torch.linalg.svdvals(w - scale * b @ a)
    bound = rounding(w, 3)
    torch.testing.assert_close(left[:-3], values[3:], rtol=0, atol=bound)
    assert left[-3:].max() < bound < 1e-3 * values[3]
    torch.testing.assert_close(a @ a.T, torch.diag(values[:3] / scale), rtol=0, atol=bound / scale)
    torch.testing.assert_close(b.T @ b, torch.diag(values[:3] / scale), rtol=0, atol=bound / scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_olora_is_the_first_part_of_a_qr(shape: tuple[int, int]) -> None:
    w = weight(*shape)
    a, b = olora(w, 3)
    bound = rounding(w, 3)
    torch.testing.assert_close(b.T @ b, torch.eye(3), rtol=0, atol=rounding(torch.eye(max(shape)), 3))
    torch.testing.assert_close(b @ a, b @ b.T @ w, rtol=0, atol=bound)
    assert (a.diagonal() > 0).all()
    assert a.tril(-1).abs().max() < bound


@pytest.mark.parametrize("start", [lambda w, rank: pissa(w, rank, 1.0), olora])
def test_a_rank_above_that_of_the_weight_is_filled_with_zeros(start: object) -> None:
    w = weight(6, 9)
    a, b = start(w, 11)  # type: ignore[operator]
    assert (a.shape, b.shape) == ((11, 9), (6, 11))
    assert not a[6:].any()
    assert not b[:, 6:].any()
    torch.testing.assert_close(b @ a, w, rtol=0, atol=rounding(w, 6))


@pytest.mark.parametrize("start", [lambda w: pissa(w, 4, 2.0), lambda w: olora(w, 4)])
def test_signs_are_a_matter_of_the_weight_alone(start: object) -> None:
    """Minus W has the same A or the same B, never a mixture."""
    w = weight(9, 7)
    (a, b), (other_a, other_b) = start(w), start(-w)  # type: ignore[operator]
    torch.testing.assert_close(other_b @ other_a, -(b @ a), rtol=0, atol=2 * rounding(w, 4))
    same = torch.isclose(a, other_a, atol=1e-5).all(1) | torch.isclose(b, other_b, atol=1e-5).all(0)
    assert same.all()


def test_half_precision_weights_are_taken_apart_in_float32() -> None:
    w = weight(12, 8).bfloat16()
    for (a, b), (exact_a, exact_b) in (
        (pissa(w, 3, 1.0), pissa(w.float(), 3, 1.0)),
        (olora(w, 3), olora(w.float(), 3)),
    ):
        assert a.dtype is b.dtype is torch.float32
        assert torch.equal(a, exact_a)
        assert torch.equal(b, exact_b)


@pytest.mark.parametrize("rank", [2, 6, 16])
def test_orthogonal_factors_have_a_product_of_zero(rank: int) -> None:
    a, b = orthogonal(Matrix("m", "mlp", 9, 7), rank, torch.Generator().manual_seed(0))
    assert (a.shape, b.shape) == ((rank, 9), (7, rank))
    assert float((b @ a).abs().max()) < 1e-6 < float(a.abs().max())


def test_an_init_scale_multiplies_a_and_nothing_else_is_drawn() -> None:
    matrix = Matrix("m", "mlp", 9, 7)
    plain = uniform(matrix, 4, torch.Generator().manual_seed(0))
    same = initial(LoRA(rank=4), matrix, weight(7, 9), torch.Generator().manual_seed(0))
    scaled = initial(LoRA(rank=4, init_scale=4), matrix, weight(7, 9), torch.Generator().manual_seed(0))
    assert torch.equal(plain[0], same[0])
    assert torch.equal(4 * plain[0], scaled[0])
    assert not scaled[1].any()
