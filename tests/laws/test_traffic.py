"""What two ranks send each other in a step is what the plan counts (docs/scale.md), to the byte.

Answers, which are single sums and log-probabilities of supervised positions, are not counted.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from counted import counts_of
from gloo import together
from lowregret.engine.parallel.mesh import ALONE
from lowregret.plan.resources.parts import held
from lowregret.plan.resources.traffic import pass_traffic, step_traffic
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import optimizer
from lowregret.spec.mesh import Mesh
from sharded import CASES, engine_of

FULL = ("FullFT", "FullFT, activations computed twice", "FullFT, bfloat16")
LORAS = ("three LoRAs", "three LoRAs, bfloat16", "state in slices")
TWO = {"full": Mesh(shard=2), "lora": Mesh(replicate=2)}
ANSWERS = 4000
"""Bytes at most: five numbers for each of some rows and policies."""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], list[tuple[int, int]]]]:
    folder = tmp_path_factory.mktemp("counted")
    return together(2, "counted", counts_of, folder, [*FULL, *LORAS])


@pytest.fixture
def counted(ranks: list[tuple[dict[str, Any], list[tuple[int, int]]]]) -> list[dict[str, Any]]:
    return [steps for steps, _ in ranks]


def through_link(found: dict[str, int]) -> float:
    """What a ring of two sends of these tensors: half of one, and all of one that is reduced to both."""
    reduced = found.get("reduce", 0)
    assert set(found) <= {"gather", "scatter", "reduce", "tell"}
    parts = sum(found.get(kind, 0) for kind in ("gather", "scatter", "tell"))
    return parts / 2 + (reduced if reduced > ANSWERS else 0)


@pytest.mark.parametrize("name", FULL)
def test_full_fine_tuning_gathers_and_scatters_what_the_plan_counts(counted: list[dict[str, Any]], name: str) -> None:
    shapes, (method,) = find_model("tiny"), CASES[name].methods
    again = "twice" in name
    expected = pass_traffic(shapes, method, TWO["full"], 4, 0, again=again)
    for found in counted:
        a_pass, after = found[name]
        assert through_link(a_pass) == expected.total
        assert through_link(after) == step_traffic(shapes, method, TWO["full"]).total == 0


@pytest.mark.parametrize("name", LORAS)
def test_adapters_are_reduced_once_a_step(counted: list[dict[str, Any]], name: str) -> None:
    shapes, methods = find_model("tiny"), CASES[name].methods
    with patch.object(optimizer, "SLICED_BYTES", 0 if CASES[name].sliced else optimizer.SLICED_BYTES):
        expected = sum(step_traffic(shapes, method, TWO["lora"]).total for method in methods)
    for found in counted:
        a_pass, after = found[name]
        assert through_link(a_pass) == 0, "a pass of LoRAs on a whole base sends nothing but answers"
        assert through_link(after) == expected


def test_copies_of_gathered_weights_go_with_their_layer_where_activations_are_computed_again(ranks: Any) -> None:
    """Else they are as many as all weights on every rank, however many share the base: a graph keeps them, or autocast
    (plan/resources/memory.py counts by this)."""
    for _, ((kept, numbers), (again, _)) in ranks:
        assert kept == numbers
        assert again == numbers / 4, "of four layers"


@pytest.mark.parametrize("name", FULL)
def test_a_rank_holds_the_numbers_that_the_plan_counts(name: str) -> None:
    """Half of them; tests/laws/test_ranks.py measures it."""
    engine = engine_of(CASES[name], ALONE)
    numbers = sum(weight.numel() for weight in engine.policies["p0"].weights.values())
    assert 2 * sum(held(find_model("tiny"), TWO["full"])) == numbers
