"""Many processes train what one does: they compute its rows between them, and give the same answers.

The oracle is one process that computes in passes what the ranks compute at once, so that sums have the same order: then
all is equal to the bit. Where a norm of all gradients is in play, or gradients of several passes add up, another order
is left, and the last bits are free; and so are a LoRA's whose rows lie on several ranks: its second pass is added
within the matrix product, which rounds otherwise on some processors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bases import small_base
from gloo import together
from lowregret.engine import Engine
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.parallel.rows import Dealing, RowSplit
from lowregret.errors import SpecError
from lowregret.spec import FullFT
from sharded import CASES, RATE, Trained, batch_of, train, train_all

BALANCED = ("FullFT of a mixture, balanced", "one LoRA, balanced")
"""Cases whose load-balancing loss is of the rows of all ranks: one process must compute them in one pass."""
OTHER_ORDER = ("FullFT, clipped", "FullFT, three passes a step", "one LoRA, clipped, two passes a step", *BALANCED)
EXACT = [
    name
    for name, case in CASES.items()
    if name not in OTHER_ORDER and (case.methods == [FullFT()] or len(case.methods) > 1)
]
SLICED = [name for name, case in CASES.items() if case.sliced]
GOES_ON = ("FullFT", "three LoRAs", "PiSSA and a LoRA", SLICED[0], SLICED[-1])
"""Cases that are gone on with from a state that one process has saved."""


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process has saved of each case, which it has trained in halves, as ranks do."""
    return {name: tmp_path_factory.mktemp("state") for name in CASES}


@pytest.fixture(scope="module")
def alone(states: dict[str, Path]) -> dict[str, Trained]:
    return {name: train(name, folder, halves=1 if name in BALANCED else 2) for name, folder in states.items()}


@pytest.fixture(scope="module")
def asked(states: dict[str, Path], alone: dict[str, Trained]) -> list[tuple[str, Path | None]]:
    return [*((name, None) for name in CASES), *((name, states[name]) for name in GOES_ON)]


@pytest.fixture(scope="module")
def two(asked: Any, tmp_path_factory: pytest.TempPathFactory) -> list[list[Trained]]:
    """All that is asked, by each of two ranks."""
    folder = tmp_path_factory.mktemp("two")
    return together(2, "sharded", train_all, folder, folder, asked)


def of(ranks: list[list[Trained]], place: int) -> list[Trained]:
    """One case, by rank."""
    return [found[place] for found in ranks]


def furthest(one: Trained, other: Trained) -> float:
    """The largest difference of a weight."""
    assert one.weights.keys() == other.weights.keys()
    return max(float(np.abs(one.weights[name] - other.weights[name]).max()) for name in one.weights)


@pytest.mark.parametrize("name", CASES)
def test_every_rank_gets_the_same_answers(two: list[list[Trained]], name: str) -> None:
    first, second = of(two, list(CASES).index(name))
    assert (first.losses, first.norms, first.before, first.held_out) == (
        second.losses,
        second.norms,
        second.before,
        second.held_out,
    )
    assert all(np.array_equal(a, b) for a, b in zip(first.logprobs, second.logprobs, strict=True))
    assert furthest(first, second) == 0


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_process(alone: dict[str, Trained], two: list[list[Trained]], name: str) -> None:
    one, found = alone[name], of(two, list(CASES).index(name))[0]
    assert one.before == found.before, "held-out batches are the same whoever computes them"
    if name in EXACT:
        assert found.losses == one.losses
        assert furthest(one, found) == 0
        assert found.held_out == one.held_out
    else:
        np.testing.assert_allclose(found.losses, one.losses, rtol=0, atol=1e-5)
        assert furthest(one, found) < 1e-4
    np.testing.assert_allclose(found.norms, one.norms, rtol=2e-5)
    apart = 0.2 if "bfloat16" in name else 1e-4
    for own, theirs in zip(found.logprobs, one.logprobs, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=0, atol=apart)
    # The fused AdamW rounds the squares of a part that is shorter than a vector register otherwise.
    if name in EXACT and CASES[name].base == "tiny":
        assert found.saved == one.saved


@pytest.mark.parametrize("name", BALANCED)
def test_the_loss_that_balances_experts_matters(alone: dict[str, Trained], name: str, tmp_path: Path) -> None:
    """What was compared is not as good without it, nor when each rank takes its own."""
    assert furthest(alone[name], train(name, tmp_path, halves=2)) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_policy_that_trains_the_base_lies_in_parts(
    alone: dict[str, Trained], two: list[list[Trained]], name: str
) -> None:
    whole, parts = alone[name].mine, [found.mine for found in of(two, list(CASES).index(name))]
    if isinstance(CASES[name].methods[0], FullFT):
        assert sum(parts) == whole
        assert max(parts) <= 1.1 * whole / 2
    else:
        assert parts == [whole, whole]


@pytest.mark.parametrize("name", SLICED)
def test_moments_of_adapters_lie_in_slices(alone: dict[str, Trained], two: list[list[Trained]], name: str) -> None:
    """The bytes that the plan counts; all else, the file that is saved included, is as without (see above)."""
    whole, parts = alone[name].state, [found.state for found in of(two, list(CASES).index(name))]
    assert sum(parts) == whole
    assert max(parts) == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.parametrize("name", GOES_ON)
def test_two_ranks_go_on_with_what_one_has_saved(
    states: dict[str, Path], two: list[list[Trained]], name: str, tmp_path: Path
) -> None:
    one = train(name, tmp_path, halves=2, state=states[name])
    found = of(two, len(CASES) + GOES_ON.index(name))[0]
    assert found.losses == one.losses
    assert found.saved == one.saved


FOUR = ("FullFT", "FullFT of a mixture", "three LoRAs", "LoRAs of shared prompts", "one LoRA, balanced", SLICED[0])


def test_four_ranks_train_as_one_process(tmp_path: Path) -> None:
    """Rows fewer than ranks; sums of four have no order that two-way sums share."""
    (tmp_path / "alone").mkdir()
    found = together(4, "sharded", train_all, tmp_path, tmp_path, [(name, None) for name in FOUR])
    for name, own in zip(FOUR, found[0], strict=True):
        one = train(name, tmp_path / "alone", halves=1 if name in BALANCED else 4)
        assert own.before == one.before
        np.testing.assert_allclose(own.losses, one.losses, rtol=0, atol=1e-5)
        assert furthest(own, one) < RATE / 4
        if name in SLICED:
            assert [rank[FOUR.index(name)].state for rank in found] == pytest.approx([one.state / 4] * 4, rel=0.01)


def test_rows_are_dealt_once_and_prompts_together() -> None:
    case = CASES["LoRAs of shared prompts"]
    batch = batch_of(case, 1, 7)
    deal = RowSplit.of(batch, 3)
    assert sorted(row for rows in deal.rows for row in rows) == list(range(7))
    assert deal.rows == ((0, 1, 6), (2, 3), (4, 5))
    parts = [deal.own(batch, rank) for rank in range(3)]
    assert float(sum(part.weights.sum() for part in parts)) == pytest.approx(1)
    assert sum(part.tokens for part in parts) == batch.tokens, "what rows share is computed once still"
    few = RowSplit.of(batch.select([0, 5]), 3)
    assert few.own(batch.select([0, 5]), 2).weights.abs().sum() == 0
    assert [few.own(batch.select([0, 5]), rank, equal=True).rows for rank in range(3)] == [1, 1, 1]


def test_policies_are_dealt_whole_where_no_rank_is_left_without() -> None:
    """As many to each rank, neighbours together; else rows."""
    batch = batch_of(CASES["one LoRA"], 1, 4)
    names = list("abcde")
    batches = dict.fromkeys(names, batch)
    dealing = Dealing.of(batches, names, 2, apart=True)
    assert [list(dealing.own(batches, rank)) for rank in (0, 1)] == [["a", "b", "c"], ["d", "e"]]
    assert all(part is batch for rank in (0, 1) for part in dealing.own(batches, rank).values())
    for count, apart in ((6, True), (2, False)):
        rows = Dealing.of(batches, names, count, apart=apart)
        assert all(list(rows.own(batches, rank)) == names for rank in range(count))


def test_one_process_is_no_group() -> None:
    ranks = Ranks.of_group("cpu")
    assert ranks.alone
    number = torch.ones(1)
    ranks.add(number)
    assert number == 1


def test_padding_is_not_counted_by_ranks_that_have_it_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load-balancing loss counts it."""
    monkeypatch.setattr("lowregret.engine.engine.supports_varlen", lambda _: False)
    with pytest.raises(SpecError, match="load-balancing loss counts padding"):
        Engine(small_base("qwen3_moe"), balance_experts=True, ranks=Ranks(0, 2))
