"""How a LoRA starts, and whose tokens it is applied to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lowregret.errors import TargetError
from lowregret.lora.bank import AdapterBank, AdapterLayout, padded_rank
from lowregret.lora.dropout import Dropout
from lowregret.lora.init import uniform
from lowregret.lora.linear import LoRALinear
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotSpan
from lowregret.models.targets import Matrix

MATRIX = Matrix("m", "mlp", d_in=5, d_out=4)
CPU = torch.device("cpu")


def bank(ranks: Sequence[int]) -> AdapterBank:
    """One with random members of these ranks, all padded alike."""
    torch.manual_seed(0)
    found = AdapterBank(AdapterLayout((MATRIX,), padded_rank(max(ranks, default=4))))
    for member, rank in enumerate(ranks):
        found.add(str(member), {"m": (torch.randn(rank, 5), torch.randn(4, rank))}, CPU)
    if ranks:
        found.need_gradients()
    return found


def span(
    of: AdapterBank, start: int, sizes: tuple[int, ...], dropouts: tuple[Dropout | None, ...] | None = None
) -> SlotSpan:
    scales = tuple(0.5 + slot for slot in range(len(sizes)))
    dropouts = dropouts or (None,) * len(sizes)
    return SlotSpan(of, slice(0, len(sizes)), start, sizes, scales, dropouts, total=0)


def adapted(
    base: nn.Module, banks: list[AdapterBank], spans: list[SlotSpan], total: int, **options: bool
) -> LoRALinear:
    """A linear map in the middle of a pass of so many tokens."""
    linear = LoRALinear("m", base, PolicyRouting(tokens=[replace(span, total=total) for span in spans]), **options)
    linear.banks = banks
    return linear


def reference(base: nn.Module, x: Tensor, found: SlotSpan, a: Tensor, b: Tensor) -> Tensor:
    """Token by token, by the formula."""
    pieces = list(base(x).split([found.start, *found.sizes, x.shape[0] - found.tokens.stop]))
    inputs = x[found.tokens].split(found.sizes)
    for member, own in enumerate(inputs):
        pieces[member + 1] = pieces[member + 1] + found.scales[member] * own @ a[member].T @ b[member].T
    return torch.cat(pieces)


def test_a_is_uniform_to_one_over_sqrt_d_in_and_b_is_zero() -> None:
    """SCIENCE 2; the spread of U(−1/√d, 1/√d) is 1/√(3d)."""
    a, b = uniform(Matrix("m", "mlp", 64, 8), 256, torch.Generator().manual_seed(0))
    assert a.shape == (256, 64)
    assert b.shape == (8, 256)
    assert b.count_nonzero() == 0
    bound = 1 / math.sqrt(64)
    assert 0.99 * bound < float(a.abs().max()) <= bound
    assert float(a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert abs(float(a.mean())) < 0.02 * bound


def test_a_generator_decides_the_start() -> None:
    drawn = [uniform(MATRIX, 4, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (4,)])
@pytest.mark.parametrize("kind", ["linear", "bias", "conv1d"])
def test_values_and_gradients_are_the_formulas(sizes: tuple[int, ...], kind: str) -> None:
    """Equal segments are one batched product, unequal ones a product each: the same numbers; the rest is the base."""
    own = bank([2, 3][: len(sizes)])
    base = Conv1D(4, 5) if kind == "conv1d" else nn.Linear(5, 4, bias=kind == "bias")
    base.requires_grad_(False)
    found = span(own, 2, sizes)
    total = found.tokens.stop + 1
    x, target = torch.randn(total, 5, requires_grad=True), torch.randn(total, 4)
    y = adapted(base, [own], [found], total)(x)
    (y * target).sum().backward()

    a, b = (value.clone().requires_grad_() for value in (own.a("m"), own.b("m")))
    again = x.detach().clone().requires_grad_()
    expected = reference(base, again, found, a, b)
    (expected * target).sum().backward()
    torch.testing.assert_close(y, expected)
    for gradient, wanted in ((x.grad, again.grad), (own.a_gradient("m"), a.grad), (own.b_gradient("m"), b.grad)):
        torch.testing.assert_close(gradient, wanted)


def test_gradients_add_up_and_need_no_input_that_trains() -> None:
    own = bank([4])
    linear = adapted(nn.Linear(5, 4).requires_grad_(False), [own], [span(own, 0, (3,))], 3)
    x = torch.randn(3, 5)
    linear(x).sum().backward()
    once = own.b_gradient("m").clone()
    linear(x).sum().backward()
    torch.testing.assert_close(own.b_gradient("m"), 2 * once)
    assert once.abs().sum() > 0


def test_padding_gets_no_gradient() -> None:
    own = bank([1, 3])
    adapted(nn.Linear(5, 4).requires_grad_(False), [own], [span(own, 0, (3, 3))], 6)(torch.randn(6, 5)).sum().backward()
    for member, rank in enumerate((1, 3)):
        for values, gradients in ((own.a("m"), own.a_gradient("m")), (own.b("m").mT, own.b_gradient("m").mT)):
            assert not values[member, rank:].any()
            assert not gradients[member, rank:].any()
            assert gradients[member, :rank].any()


def test_dropout_has_its_rate_its_scale_and_one_mask_a_pass() -> None:
    rows = ((0, 150), (1, 250))
    drop = Dropout(0.25, seed=3, step=7, rows=rows)
    x = torch.ones(400, 50)
    dropped = drop(x, "m")
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(drop(x, "m"), dropped)
    for other in (drop(x, "n"), Dropout(0.25, 3, 8, rows)(x, "m"), Dropout(0.25, 4, 7, rows)(x, "m")):
        assert not torch.equal(other, dropped)
    alone = Dropout(0.25, seed=3, step=7, rows=((1, 200),))(x[:200], "m")
    assert torch.equal(alone, dropped[150:350]), "a row's mask depends on its company or its padding"


def test_gradients_under_dropout_are_the_formulas() -> None:
    """Only one of the two neighbours has it."""
    own, base = bank([2, 2]), nn.Linear(5, 4).requires_grad_(False)
    drop = Dropout(0.5, seed=0, step=0, rows=((0, 6),))
    found = span(own, 0, (6, 6), (None, drop))
    x, target = torch.randn(12, 5, requires_grad=True), torch.randn(12, 4)
    y = adapted(base, [own], [found], 12)(x)
    (y * target).sum().backward()

    a, b = (value.clone().requires_grad_() for value in (own.a("m"), own.b("m")))
    again = x.detach().clone().requires_grad_()
    masked = torch.cat([again[:6], again[6:] * drop(torch.ones(6, 5), "m")])
    expected = base(again) + (reference(base, masked, found, a, b) - base(masked))
    (expected * target).sum().backward()
    torch.testing.assert_close(y, expected)
    for gradient, wanted in ((x.grad, again.grad), (own.a_gradient("m"), a.grad), (own.b_gradient("m"), b.grad)):
        torch.testing.assert_close(gradient, wanted)


def test_the_unembedding_has_its_own_routing() -> None:
    own, base = bank([2]), nn.Linear(5, 4)
    linear = adapted(base, [own], [span(own, 0, (6,))], 6, unembedding=True)
    linear.routing.positions = [span(own, 1, (2,))]
    x = torch.randn(4, 5)
    y = linear(x)
    assert torch.equal(y[[0, 3]], base(x)[[0, 3]])
    assert not torch.equal(y[1:3], base(x)[1:3])


def test_outside_a_pass_it_is_the_base() -> None:
    linear = adapted(nn.Linear(5, 4), [bank([2])], [], 0)
    for x in (torch.randn(2, 3, 5), torch.randn(6, 5)):
        assert torch.equal(linear(x), linear.base(x))


def test_a_selection_of_tokens_is_refused() -> None:
    """A router's choice: whose they are is not known."""
    own = bank([2])
    linear = adapted(nn.Linear(5, 4), [own], [span(own, 0, (6,))], 6)
    with pytest.raises(TargetError, match="m gets 5 tokens in a pass of 6"):
        linear(torch.randn(5, 5))


def test_a_matrix_with_a_forward_of_its_own_is_refused() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(TargetError, match=r"m is a Odd.*re:REGEX"):
        LoRALinear("m", Odd(5, 4), PolicyRouting())


def test_a_bank_keeps_its_members_apart_when_one_leaves() -> None:
    own = bank([1, 2, 4])
    gradients = own.gradients
    assert gradients is not None
    gradients += torch.arange(3.0)[:, None]
    kept = own.weights[[0, 2]].clone()
    own.remove("1")
    assert own.members == ["0", "2"]
    assert torch.equal(own.weights, kept)
    assert own.gradients is not None
    assert own.gradients[:, 0].tolist() == [0.0, 2.0]
    own.add("3", {"m": (torch.ones(3, 5), torch.ones(4, 3))}, CPU)
    assert own.gradients[:, 0].tolist() == [0.0, 2.0, 0.0]
    assert own.a("m", slice(2, 3))[0, :3].eq(1).all()
    assert not own.a("m", slice(2, 3))[0, 3:].any()


def test_a_bank_has_room_while_its_weights_take_few_bytes() -> None:
    own, size = bank([4, 4]), 4 * (4 * 5 + 4 * 4)
    assert own.weights.nbytes == 2 * size
    assert own.has_room(3 * size)
    assert not own.has_room(3 * size - 1)
    assert AdapterBank(own.layout).has_room(0), "no policy finds a bank"
    residual = AdapterBank(AdapterLayout((MATRIX,), 4, residual=True))
    residual.add("0", {"m": (torch.ones(4, 5), torch.ones(4, 4))}, CPU)
    assert residual.has_room(0), "a start in the base is found once for every member"


def test_who_joins_a_bank_that_took_memory_ahead_moves_nobody() -> None:
    """Until there is no more; then, and when a member has left, it lies anew. What it holds is that of another bank."""
    size = 4 * (4 * 5 + 4 * 4)
    plain, own = bank([]), AdapterBank(AdapterLayout((MATRIX,), 4), ahead=3 * size)
    places = []
    for member in range(5):
        torch.manual_seed(member)
        values = {"m": (torch.randn(4, 5), torch.randn(4, 4))}
        for each in (plain, own):
            each.add(str(member), values, CPU)
        assert torch.equal(own.weights, plain.weights)
        assert torch.equal(own.a("m"), plain.a("m"))
        places.append(own.weights.data_ptr())
    assert places[0] == places[1] == places[2] != places[3]
    for each in (plain, own):
        each.remove("1")
        each.add("5", values, CPU)
    assert torch.equal(own.weights, plain.weights)
    assert own.members == plain.members


@pytest.mark.parametrize("scales", [(2.0,) * 5, (2.0, 2.0, 0.5, 0.5, 2.0), (1.0, 2.0, 3.0, 4.0, 5.0)])
@pytest.mark.parametrize("sizes", [(2,) * 5, (1, 1, 2, 2, 2), (1, 2, 3, 4, 5)])
def test_without_gradients_each_gets_its_own_update(sizes: tuple[int, ...], scales: tuple[float, ...]) -> None:
    """Neighbours that are alike in one product, whatever the others are; tokens of none before and after."""
    own, base = bank([4] * 5), nn.Linear(5, 4)
    found = replace(span(own, 2, sizes), scales=scales)
    total = sum(sizes) + 3
    linear, x = adapted(base, [own], [found], total), torch.randn(total, 5)
    with torch.no_grad(), linear.routing.unchanging():
        for _ in range(2):  # what is looked up is what was found
            torch.testing.assert_close(linear(x), reference(base, x, found, own.a("m"), own.b("m")))
        (update, *others) = linear.routing.updates(linear.routing.tokens, [found], "m", x.dtype)
    alike = zip(sizes, scales, strict=True)
    runs = [list(group) for _, group in groupby(alike)]
    assert [each.policies for each in (update, *others)] == [len(run) for run in runs]


def test_what_a_pass_adds_is_found_anew_when_its_rows_are_others() -> None:
    own, base = bank([4, 4]), nn.Linear(5, 4)
    linear, x = adapted(base, [own], [span(own, 0, (1, 2))], 3), torch.randn(3, 5)
    with torch.no_grad(), linear.routing.unchanging():
        first = linear(x)
        other = replace(span(own, 0, (2, 1)), total=3)
        linear.routing.tokens = [other]
        torch.testing.assert_close(linear(x), reference(base, x, other, own.a("m"), own.b("m")))
        assert not torch.equal(linear(x), first)


def test_views_of_a_bank_are_those_of_its_weights_as_they_are() -> None:
    """Also after a member has come or gone."""
    own = bank([4, 4])
    for change in (lambda: own.remove("0"), lambda: own.add("2", {"m": (torch.ones(4, 5), torch.ones(4, 4))}, CPU)):
        before = own.a("m").data_ptr()
        change()
        assert own.a("m").data_ptr() == own.weights.data_ptr() != before
        assert len(own.b("m")) == len(own.members)
