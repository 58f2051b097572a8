"""DoRA and residual starts in a linear map: values and gradients are those of the formula, written out for autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lowregret.lora.bank import AdapterBank, AdapterLayout
from lowregret.lora.dropout import Dropout
from lowregret.lora.linear import LoRALinear, adapted_product
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotSpan
from lowregret.lora.weights import LoRAWeights, divisors, row_norms
from lowregret.models.targets import Matrix

CPU = torch.device("cpu")
D_IN, D_OUT, RANK = 5, 6, 4
FORMS = {"dora": (False, True), "residual": (True, False), "both": (True, True), "plain": (False, False)}


@pytest.fixture(autouse=True)
def float64() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def bank(form: str, members: int) -> AdapterBank:
    """Random members, away from their start."""
    torch.manual_seed(1)
    residual, dora = FORMS[form]
    found = AdapterBank(AdapterLayout((Matrix("m", "mlp", D_IN, D_OUT),), RANK, residual, dora))
    for member in range(members):
        found.add(str(member), {"m": (torch.randn(RANK, D_IN), torch.randn(D_OUT, RANK))}, CPU)
    found.weights += torch.randn(found.weights.shape)
    found.need_gradients()
    return found


def expected(base: nn.Module, own: AdapterBank, span: SlotSpan, x: Tensor, leaves: list[tuple[Tensor, ...]]) -> Tensor:
    """The formula for each member, with its own leaves for A, B and magnitudes."""
    weight = base.weight.T if isinstance(base, Conv1D) else base.weight
    pieces = [base(x[: span.start])]
    for member, rows in enumerate(x[span.tokens].split(span.sizes)):
        a, b, magnitude = leaves[member]
        dropout = span.dropouts[member]
        dropped = rows if dropout is None else dropout(rows, "m")
        delta = b @ a
        if own.initial is not None:
            a0, b0 = (value[0] for value in own.start("m", slice(member, member + 1)) or ())
            delta = delta - b0 @ a0
        delta = span.scales[member] * delta
        if own.layout.dora:
            gain = magnitude / (weight + delta).detach().norm(dim=1)
            pieces.append(base(rows) + (gain - 1) * (dropped @ weight.T) + gain * (dropped @ delta.T))
        else:
            pieces.append(base(rows) + dropped @ delta.T)
    return torch.cat([*pieces, base(x[span.tokens.stop :])])


def leaves_of(own: AdapterBank) -> list[tuple[Tensor, ...]]:
    found = []
    for member in range(len(own.members)):
        slots = slice(member, member + 1)
        magnitude = own.magnitudes("m", slots)[0] if own.layout.dora else torch.zeros(D_OUT)
        found.append(tuple(v.clone().requires_grad_() for v in (own.a("m", slots)[0], own.b("m", slots)[0], magnitude)))
    return found


def check_gradients(own: AdapterBank, leaves: list[tuple[Tensor, ...]]) -> None:
    for member, (a, b, magnitude) in enumerate(leaves):
        slots = slice(member, member + 1)
        torch.testing.assert_close(own.a_gradient("m", slots)[0], a.grad)
        torch.testing.assert_close(own.b_gradient("m", slots)[0], b.grad)
        if own.layout.dora:
            torch.testing.assert_close(own.magnitudes_gradient("m", slots)[0], magnitude.grad)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (4,)])
@pytest.mark.parametrize("kind", ["linear", "bias", "conv1d"])
@pytest.mark.parametrize("drop", [False, True])
def test_values_and_gradients_are_the_formulas(form: str, sizes: tuple[int, ...], kind: str, drop: bool) -> None:
    own = bank(form, len(sizes))
    base = (Conv1D(D_OUT, D_IN) if kind == "conv1d" else nn.Linear(D_IN, D_OUT, bias=kind == "bias")).requires_grad_(
        False
    )
    dropouts = tuple(Dropout(0.4, 1, 0, [(0, size)]) if drop and not slot else None for slot, size in enumerate(sizes))
    scales = tuple(0.5 + slot for slot in range(len(sizes)))
    total = 2 + sum(sizes) + 1
    span = SlotSpan(own, slice(0, len(sizes)), 2, sizes, scales, dropouts, total)
    linear = LoRALinear("m", base, PolicyRouting(tokens=[span]))
    linear.banks = [own]
    x, other = (torch.randn(total, D_IN, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    y = linear(x)
    leaves = leaves_of(own)
    reference = expected(base, own, span, other, leaves)
    torch.testing.assert_close(y, reference)
    slope = torch.randn(y.shape)
    y.backward(slope)
    reference.backward(slope)
    torch.testing.assert_close(x.grad, other.grad)
    check_gradients(own, leaves)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("drop", [False, True])
def test_products_that_are_taken_elsewhere_are_the_same(form: str, drop: bool) -> None:
    """Of the second of two members, as the unembedding takes them."""
    own, base = bank(form, 2), nn.Linear(D_IN, D_OUT).requires_grad_(False)
    dropouts = (None, Dropout(0.4, 1, 0, [(0, 3)]) if drop else None)
    span = SlotSpan(own, slice(0, 2), 0, (2, 3), (0.5, 1.5), dropouts, 5)
    linear = LoRALinear("m", base, PolicyRouting(tokens=[span]))
    linear.banks = [own]
    x = torch.randn(5, D_IN)
    inputs, weight, (u, b) = adapted_product(linear, span, 1, x[2:], base.weight)
    y = inputs @ weight.T + u @ b.T + base.bias
    leaves = leaves_of(own)
    reference = expected(base, own, span, x, leaves)[2:]
    torch.testing.assert_close(y, reference)
    slope = torch.randn(y.shape)
    y.backward(slope)
    reference.backward(slope)
    leaves[0] = tuple(torch.zeros_like(leaf) for leaf in leaves[0])
    for leaf in leaves[0]:
        leaf.grad = torch.zeros_like(leaf)
    check_gradients(own, leaves)


@pytest.mark.parametrize("form", list(FORMS))
def test_a_merged_weight_does_what_the_linear_map_does(form: str) -> None:
    own, base = bank(form, 1), nn.Linear(D_IN, D_OUT, bias=False).requires_grad_(False)
    span = SlotSpan(own, slice(0, 1), 0, (3,), (0.5,), (None,), 3)
    linear = LoRALinear("m", base, PolicyRouting(tokens=[span]))
    linear.banks = [own]
    start = own.start("m", slice(0, 1))
    weights = LoRAWeights(
        nn.Parameter(own.a("m")[0]),
        nn.Parameter(own.b("m")[0]),
        0.5,
        None if start is None else (start[0][0], start[1][0]),
        nn.Parameter(own.magnitudes("m")[0]) if own.layout.dora else None,
    )
    x = torch.randn(3, D_IN)
    torch.testing.assert_close(linear(x), x @ weights.merged(base.weight).T)
    a, b = weights.factors()
    assert a.shape[0] == (2 if own.layout.residual else 1) * RANK
    torch.testing.assert_close(0.5 * b @ a, weights.delta())


def test_a_row_of_zeros_stays_one() -> None:
    weight = torch.randn(D_OUT, D_IN)
    weight[2] = 0
    a, b = torch.randn(RANK, D_IN), torch.zeros(D_OUT, RANK)
    norms = row_norms(weight, a, b, 1.0)
    torch.testing.assert_close(norms, weight.norm(dim=1))
    assert norms[2] == 0
    own = LoRAWeights(nn.Parameter(a), nn.Parameter(b), 1.0, None, nn.Parameter(norms))
    assert torch.equal(own.merged(weight), weight)
    shipped = own.shipped(weight)
    assert not row_norms(weight, *shipped, 1.0).eq(0).any(), "PEFT would divide by zero"
    assert torch.equal(divisors(norms)[[0, 2]], torch.stack([norms[0], torch.tensor(1.0)]))


def test_norms_are_computed_once_where_no_weight_changes() -> None:
    own, base = bank("dora", 1), nn.Linear(D_IN, D_OUT).requires_grad_(False)
    routing = PolicyRouting(tokens=[SlotSpan(own, slice(0, 1), 0, (3,), (0.5,), (None,), 3)])
    linear = LoRALinear("m", base, routing)
    linear.banks = [own]
    x = torch.randn(3, D_IN)
    before = linear(x)
    with routing.unchanging():
        assert torch.equal(linear(x), before)
        own.a("m").mul_(2)
        kept = linear(x)
    torch.testing.assert_close(list(linear(x).shape), list(kept.shape))
    assert not torch.allclose(linear(x), kept), "norms outlived their time"
