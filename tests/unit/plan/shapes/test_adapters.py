"""How many parameters a LoRA has: the figures of SCIENCE 4."""

from __future__ import annotations

import pytest

from lowregret.errors import SpecError, TargetError
from lowregret.plan.shapes.adapters import CONVENTIONS, Convention, adapter_bytes, lora_parameters, ranks_of
from lowregret.plan.shapes.lookup import find_model

_PER_RANK = [
    ("meta-llama/Llama-3.1-8B", 1_769_472, 851_968, 132_352),
    ("meta-llama/Llama-3.2-1B", 491_520, 212_992, 130_304),
    ("Qwen/Qwen3-8B", 1_769_472, 958_464, 156_032),
]


@pytest.mark.parametrize(("name", "mlp", "attention", "unembedding"), _PER_RANK)
def test_one_rank_costs_what_the_table_says(name: str, mlp: int, attention: int, unembedding: int) -> None:
    counted = lora_parameters(find_model(name), 1, ("attention", "mlp", "unembedding"))
    assert counted == {"attention": attention, "mlp": mlp, "experts": 0, "unembedding": unembedding}


def test_one_rank_of_the_experts_with_a_shared_hidden_side() -> None:
    shapes = find_model("Qwen/Qwen3-30B-A3B")
    counted = lora_parameters(shapes, 1, ("attention", "mlp", "unembedding"), "shared-outer")
    assert counted == {"attention": 835_584, "mlp": 0, "experts": 14_450_688, "unembedding": 153_984}


@pytest.mark.parametrize(
    ("targets", "rank", "millions"),
    [
        (("mlp", "unembedding"), 256, 486.9),
        (("attention", "unembedding"), 256, 252.0),
        (("attention", "mlp", "unembedding"), 256, 705.0),
        (("mlp", "unembedding"), 128, 243.4),
    ],
)
def test_the_posts_adapters_of_llama(targets: tuple[str, ...], rank: int, millions: float) -> None:
    counted = lora_parameters(find_model("Llama-3.1-8B"), rank, targets)
    assert round(sum(counted.values()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("convention", "parameters", "expert_rank"),
    [
        ("per-active", 207_618_048, 4),
        ("per-total", 51_904_512, 1),
        ("shared-outer", 462_422_016, 32),
        ("full-rank-each", 1_660_944_384, 32),
    ],
)
def test_the_four_conventions(convention: Convention, parameters: int, expert_rank: int) -> None:
    shapes = find_model("Qwen/Qwen3-30B-A3B")
    assert lora_parameters(shapes, 32, "all", convention)["experts"] == parameters
    assert ranks_of(shapes, 32, convention) == expert_rank


def test_conventions_make_no_difference_to_a_dense_model() -> None:
    shapes = find_model("Qwen3-0.6B")
    assert len({tuple(lora_parameters(shapes, 8, "all", convention).items()) for convention in CONVENTIONS}) == 1


def test_an_expert_never_gets_less_than_rank_one_and_divisions_round_down() -> None:
    shapes = find_model("Qwen/Qwen3-30B-A3B")
    assert [ranks_of(shapes, rank, "per-active") for rank in (1, 8, 15, 16)] == [1, 1, 1, 2]


def test_all_has_the_unembedding_a_tied_one_too_and_linear_has_not() -> None:
    shapes = find_model("meta-llama/Llama-3.2-1B")
    linear, every = lora_parameters(shapes, 4, "linear"), lora_parameters(shapes, 4)
    assert linear == lora_parameters(shapes, 4, ("attention", "mlp")) == {**every, "unembedding": 0}
    assert every["unembedding"] == 4 * (128_256 + 2048)
    assert round(sum(lora_parameters(find_model("Llama-3.1-8B"), 256).values()) / 1e6, 1) == 705.0


def test_a_pattern_takes_the_layers_that_it_matches() -> None:
    shapes = find_model("meta-llama/Llama-3.1-8B")
    counted = lora_parameters(shapes, 2, r"re:layers\.(3|4)\.self_attn\.q_proj$")
    assert counted == {"attention": 2 * 2 * (4096 + 4096), "mlp": 0, "experts": 0, "unembedding": 0}


def test_targets_that_match_nothing_are_errors() -> None:
    dense = find_model("tiny")
    with pytest.raises(TargetError, match="no 'experts' matrix"):
        lora_parameters(dense, 1, ("experts",))
    with pytest.raises(TargetError, match="matches no weight matrix"):
        lora_parameters(dense, 1, "re:no_such_matrix")
    with pytest.raises(SpecError, match="Did you mean 'attention'"):
        lora_parameters(dense, 1, ("atention",))
    with pytest.raises(SpecError, match="per-active"):
        lora_parameters(dense, 1, "all", "per-activ")  # type: ignore[arg-type]


def test_the_router_is_adapted_only_when_named_and_the_shared_experts_gate_never() -> None:
    shapes = find_model("Qwen3-Next-80B-A3B")
    assert "router" not in lora_parameters(shapes, 1)
    assert lora_parameters(shapes, 2, ("router",))["router"] == 2 * 48 * (512 + 2048)


def test_bytes_on_disk() -> None:
    assert adapter_bytes(10) == 40
    assert adapter_bytes(10, "bfloat16") == 20
