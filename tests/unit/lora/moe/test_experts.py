"""Experts with LoRAs against an explicit sum over experts and policies, in float64, on the module alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lowregret.errors import TargetError
from lowregret.lora.bank import AdapterBank, AdapterLayout, rank_on
from lowregret.lora.init import expert_start
from lowregret.lora.moe.experts import LoRAExperts
from lowregret.lora.moe.segments import Segments
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotRows, slot_spans
from lowregret.models.experts import bias, roles, weight
from lowregret.models.targets import Matrix, matrices
from lowregret.spec import LoRA
from lowregret.spec.conventions import CONVENTIONS

MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]
TOKENS = 13
EXPERTS, K, HIDDEN = 4, 2, 16


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class World:
    """One module of experts, and policies on it: (method, tokens) each, or (None, tokens) for the base's own."""

    def __init__(self, bases: ModuleType, architecture: str, policies: Sequence[tuple[LoRA | None, int]]) -> None:
        model = bases.double_base(architecture).model
        first: Matrix = next(matrix for matrix in matrices(model) if matrix.experts)
        self.name = first.name.rpartition(".")[0]
        self.base: Any = model.get_submodule(self.name)
        self.matrices = [m for m in matrices(model) if m.name.startswith(self.name + ".")]
        self.routing = PolicyRouting()
        self.module = LoRAExperts(self.name, self.base, self.routing)
        self.policies = policies
        self.banks: list[AdapterBank] = []
        self.leaves: list[dict[str, tuple[Tensor, Tensor]]] = []
        members, start = [], 0
        draw = torch.Generator().manual_seed(0)
        for number, (method, tokens) in enumerate(policies):
            if method is not None:
                members.append(self._member(f"p{number}", method, start, tokens, draw))
            start += tokens
        self.module.banks = self.banks
        self.routing.tokens = slot_spans(members, start)
        self.x = torch.randn(start, HIDDEN, generator=draw)
        scores = torch.rand(start, EXPERTS, generator=draw)
        scores[:, 2] = 0  # an expert that nobody is sent to
        top = scores.topk(K)
        self.chosen, self.shares = top.indices, top.values
        self.dout = torch.randn(start, HIDDEN, generator=draw)

    def _member(self, name: str, method: LoRA, start: int, tokens: int, draw: torch.Generator) -> SlotRows:
        layout = AdapterLayout.of(method, self.matrices)
        bank = next((bank for bank in self.banks if bank.layout == layout), None)
        if bank is None:
            bank = AdapterBank(layout)
            self.banks.append(bank)
        values, leaves = {}, {}
        for matrix in self.matrices:
            a, b = expert_start(method, matrix, draw)
            values[matrix.name] = a.double(), torch.randn(b.shape, generator=draw)
            leaves[matrix.name] = tuple(value.clone().requires_grad_() for value in values[matrix.name])
        bank.add(name, values, torch.device("cpu"))
        self.leaves.append(leaves)
        scale = method.scale_of(rank_on(method, self.matrices[0]))
        other = 1e9  # that of matrices which are not experts': of no use here
        return SlotRows(bank, bank.members.index(name), start, tokens, other, scale, None)

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """(output, gradient of x, gradient of the router's shares); gradients of A and B are in the banks."""
        for bank in self.banks:
            bank.need_gradients()
        x, shares = self.x.clone().requires_grad_(), self.shares.clone().requires_grad_()
        out = self.module(x, self.chosen, shares)
        out.backward(self.dout)
        assert x.grad is not None
        assert shares.grad is not None
        return out.detach(), x.grad, shares.grad

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same, token by token and expert by expert, with every adapted matrix made whole."""
        x, shares = self.x.clone().requires_grad_(), self.shares.clone().requires_grad_()
        rows, start, leaves = [], 0, iter(self.leaves)
        for method, tokens in self.policies:
            own = None if method is None else next(leaves)
            for token in range(start, start + tokens):
                total = torch.zeros(HIDDEN)
                for choice in range(K):
                    expert = int(self.chosen[token, choice])
                    total = total + shares[token, choice] * self._expert(method, own, expert, x[token])
                rows.append(total)
            start += tokens
        out = torch.stack(rows)
        out.backward(self.dout)
        assert x.grad is not None
        assert shares.grad is not None
        return out.detach(), x.grad, shares.grad

    def _expert(self, method: LoRA | None, own: Any, expert: int, x: Tensor) -> Tensor:
        def product(role: str, value: Tensor) -> Tensor:
            whole = weight(self.base, role)[expert].detach()
            matrix = next(m for m in self.matrices if m.name.endswith(role))
            if method is not None:
                a, b = own[matrix.name]
                a, b = (f[expert if len(f) > 1 else 0] for f in (a, b))
                whole = whole + method.alpha / rank_on(method, matrix) * b @ a
            found = bias(self.base, role)
            return whole @ value + (0 if found is None else found[expert].detach())

        gate, up = product("gate_proj", x), product("up_proj", x)
        if self.base.is_concatenated:
            inner = self.base.act_fn(gate) * up
        else:  # gpt-oss
            gate, up = gate.clamp(max=self.base.limit), up.clamp(-self.base.limit, self.base.limit)
            inner = (up + 1) * gate * torch.sigmoid(gate * self.base.alpha)
        return product("down_proj", inner)

    def compare(self) -> None:
        for found, wanted in zip(self.run(), self.expected(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        policies = [p for p, (method, _) in enumerate(self.policies) if method is not None]
        for number, leaves in zip(policies, self.leaves, strict=True):
            bank = next(bank for bank in self.banks if f"p{number}" in bank.members)
            slot = bank.members.index(f"p{number}")
            for name, (a, b) in leaves.items():
                assert a.grad is not None
                assert b.grad is not None
                found_a, found_b = bank.a_gradient(name)[slot], bank.b_gradient(name)[slot]
                rank = a.shape[1]
                torch.testing.assert_close(found_a[:, :rank], a.grad, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(found_b[..., :rank], b.grad, rtol=1e-9, atol=1e-9)
                assert not found_a[:, rank:].any(), "padding gets no gradient"
                assert not found_b[..., rank:].any()


def lora(rank: int, convention: Any = "full-rank-each", alpha: float = 8) -> LoRA:
    return LoRA(rank=rank, alpha=alpha, convention=convention, targets=("experts",))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_one_policy(bases: ModuleType, architecture: str, convention: Any) -> None:
    World(bases, architecture, [(lora(6, convention), TOKENS)]).compare()


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_neighbours_in_a_bank_and_tokens_of_none(bases: ModuleType, architecture: str, convention: Any) -> None:
    two = (lora(4, convention), 5), (lora(3, convention), 1)
    World(bases, architecture, [*two, (None, 4)]).compare()


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_ranks_conventions_and_scales_side_by_side(bases: ModuleType, architecture: str) -> None:
    """Four banks, tokens of the base before, between and behind."""
    several = [(lora(8, convention, alpha), 3) for convention, alpha in zip(CONVENTIONS, (1, 2, 4, 8), strict=True)]
    World(bases, architecture, [(None, 2), *several[:2], (None, 2), *several[2:], (None, 1)]).compare()


@pytest.mark.parametrize("block_pairs", [1, 9])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_in_several_blocks(
    bases: ModuleType, architecture: str, block_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pairs are computed on a CPU: one expert a block, or some, one of no token among them."""
    monkeypatch.setattr("lowregret.lora.moe.dispatch.BLOCK_PAIRS", block_pairs)
    several = [(lora(8, convention, alpha), 3) for convention, alpha in zip(CONVENTIONS, (1, 2, 4, 8), strict=True)]
    World(bases, architecture, [(None, 2), *several[:2], (None, 2), *several[2:], (None, 1)]).compare()
    World(bases, architecture, [(lora(6, "shared-outer"), TOKENS)]).compare()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_in_one_block_whose_sizes_the_host_does_not_know(
    bases: ModuleType, convention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As elsewhere than on a CPU, with the products of a CPU."""
    monkeypatch.setattr("lowregret.lora.moe.dispatch._cuts", lambda experts: [])
    World(bases, "qwen3_moe", [(lora(4, convention), 5), (lora(3, convention), 1), (None, 4)]).compare()


def test_what_is_kept_for_the_backward_pass(bases: ModuleType) -> None:
    """The tokens, the router's shares, gate and up of each pair, and x Aᵀ of each matrix: no activation, no output."""
    world = World(bases, "qwen3_moe", [(lora(4), TOKENS)])
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        world.module(world.x.requires_grad_(), world.chosen, world.shares.requires_grad_())
    up = world.base.gate_up_proj.shape[1]
    assert sum(x.numel() for x in kept) == TOKENS * HIDDEN + TOKENS * K * (1 + up + 3 * 4)


def test_gradients_add_up(bases: ModuleType) -> None:
    world = World(bases, "qwen3_moe", [(lora(4), TOKENS)])
    world.run()
    once = [bank.gradients.clone() for bank in world.banks if bank.gradients is not None]
    world.run()
    for bank, before in zip(world.banks, once, strict=True):
        torch.testing.assert_close(bank.gradients, 2 * before)


def test_an_expert_without_tokens_gets_no_gradient_and_traffic_says_so(bases: ModuleType) -> None:
    world = World(bases, "qwen3_moe", [(lora(4), 6), (lora(4), 7)])
    world.dout[3] = 0
    world.run()
    for policy, start, stop in (("p0", 0, 6), ("p1", 6, 13)):
        counts = torch.bincount(world.chosen[start:stop].flatten(), minlength=EXPERTS)
        sent, reached = world.module.traffic[policy]
        assert torch.equal(sent, counts)
        lost = torch.bincount(world.chosen[3], minlength=EXPERTS) if start == 0 else 0
        assert torch.equal(reached, counts - lost)
    for matrix in world.matrices:
        assert not world.banks[0].b_gradient(matrix.name)[:, 2].any()


def test_only_some_matrices(bases: ModuleType) -> None:
    """One policy adapts gate alone, its neighbour all: the others' outputs are the base's."""
    world = World(bases, "qwen3_moe", [(lora(4), 6)])
    every = world.matrices
    world.matrices = every[:1]
    member = world._member("gate", lora(2), 6, 7, torch.Generator().manual_seed(1))
    world.matrices = every
    world.routing.tokens = slot_spans([SlotRows(world.banks[0], 0, 0, 6, 1.0, 2.0, None), member], TOKENS)
    world.x, world.dout = torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
    top = torch.rand(TOKENS, EXPERTS).topk(K)
    world.chosen, world.shares = top.indices, top.values
    for role in roles(world.base)[1:]:
        a, b = torch.zeros(EXPERTS, 2, 16), torch.zeros(EXPERTS, 16, 2)
        world.leaves[1][f"{world.name}.{role}"] = a, b
    world.policies = [(lora(4), 6), (lora(2), 7)]
    for found, wanted in zip(world.run(), world.expected(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_variants_that_are_not_built_on_experts_are_refused(bases: ModuleType) -> None:
    matrix = next(m for m in matrices(bases.small_model("qwen3_moe")) if m.experts)
    for method in (LoRA(rank=4, dora=True), LoRA(rank=4, dropout=0.1), LoRA(rank=4, init="pissa")):
        with pytest.raises(TargetError, match=rf"{matrix.name}: on experts, a LoRA with (dora|dropout|pissa) is not"):
            expert_start(method, matrix, torch.Generator())


def test_tokens_of_another_number_than_the_pass_has_are_refused(bases: ModuleType) -> None:
    world = World(bases, "qwen3_moe", [(lora(4), TOKENS)])
    with pytest.raises(TargetError, match="gets 5 tokens"):
        world.module(world.x[:5], world.chosen[:5], world.shares[:5])


def test_segments_by_grouped_mm_equal_the_loop() -> None:
    """What other devices than a CPU use; here it is the same function with float32 and even widths."""
    counts = torch.tensor([3, 0, 5, 1])
    here, there = Segments.of(counts), Segments(counts, None)
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, width, generator=draw, dtype=torch.float32) for width in (8, 16))
    factors = torch.randn(4, 8, 16, generator=draw, dtype=torch.float32)
    torch.testing.assert_close(there.times(x, factors), here.times(x, factors))
    torch.testing.assert_close(there.outer(x, y), here.outer(x, y))
    assert not here.outer(x, y)[1].any()
    one, other = y.clone(), y.clone()
    here.add_times(one, x, factors)
    there.add_times(other, x, factors)
    torch.testing.assert_close(one, other)
    columns = y[:, ::2]  # as gpt-oss interleaves gate and up
    torch.testing.assert_close(there.outer(columns, x), here.outer(columns, x))
