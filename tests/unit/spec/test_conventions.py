"""The four conventions count what SCIENCE 4 says, on the model as transformers builds it and in `plan` alike."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from lowregret.engine import Engine
from lowregret.lora.bank import AdapterLayout, rank_on
from lowregret.models.targets import Matrix, find_targets, matrices
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.catalogue.entries import find_entry
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.spec import LoRA, TrialSpec
from lowregret.spec.conventions import CONVENTIONS, expert_rank

MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "deepseek_v3"]
SCIENCE = {"per-active": 207.6e6, "per-total": 51.9e6, "shared-outer": 462.4e6, "full-rank-each": 1.66e9}


@pytest.fixture(scope="module")
def qwen() -> tuple[dict[str, Any], list[Matrix]]:
    """Qwen3-30B-A3B: its configuration out of the catalogue, and its matrices on the meta device."""
    entry = find_entry("Qwen/Qwen3-30B-A3B")
    assert entry is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**entry.config))
    return dict(entry.config), find_targets(model, matrices(model), ("experts",))


def counted(method: LoRA, targeted: list[Matrix]) -> int:
    """Numbers of A and B of a policy, without the padding of ranks."""
    layout, total = AdapterLayout.of(method, targeted), 0
    for matrix in targeted:
        (a_copies, _, d_in), (b_copies, d_out, _) = layout.shapes(matrix)
        total += rank_on(method, matrix) * (a_copies * d_in + b_copies * d_out)
    return total


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_qwen3_30b_a3b_at_rank_32(qwen: tuple[dict[str, Any], list[Matrix]], convention: Any) -> None:
    config, targeted = qwen
    assert len(targeted) == 48 * 3
    found = counted(LoRA(rank=32, convention=convention), targeted)
    assert found == pytest.approx(SCIENCE[convention], rel=2e-3)
    assert lora_parameters(shapes_of(config, "qwen"), 32, "experts", convention)["experts"] == found


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_policy_has_what_plan_says(bases: ModuleType, architecture: str, convention: Any) -> None:
    base = bases.small_base(architecture)
    shapes = shapes_of(base.model.config.to_dict(), architecture)
    engine = Engine(base)
    for rank, targets in ((8, ("experts",)), (3, ("attention", "mlp"))):
        method = LoRA(rank=rank, targets=targets, convention=convention)
        policy = engine.add_policy("lora", method)
        assert policy.trainable_parameters == sum(lora_parameters(shapes, rank, targets, convention).values())
        engine.remove_policy("lora")


@given(st.integers(1, 65536), st.integers(1, 512), st.integers(1, 64))
def test_ranks_are_rounded_down_to_at_least_one(rank: int, total: int, active: int) -> None:
    ranks = {name: expert_rank(rank, name, active=active, total=total) for name in CONVENTIONS}
    assert ranks["full-rank-each"] == ranks["shared-outer"] == rank
    for name, divisor in (("per-active", active), ("per-total", total)):
        assert ranks[name] >= 1
        assert ranks[name] * divisor <= max(rank, divisor)
        assert (ranks[name] + 1) * divisor > rank


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_alpha_is_divided_by_the_rank_in_use(bases: ModuleType, convention: Any) -> None:
    engine = Engine(bases.small_base("qwen3_moe"))
    policy: Any = engine.add_policy("lora", LoRA(rank=8, alpha=32, targets=("attention", "mlp"), convention=convention))
    rank = {"per-active": 4, "per-total": 2}.get(convention, 8)
    scales = {name.rpartition(".")[2]: adapter.scale for name, adapter in policy.adapters.items()}
    assert scales["q_proj"] == 4
    assert {scales[role] for role in ("gate_proj", "up_proj", "down_proj")} == {32 / rank}


def test_a_convention_is_spelled_in_the_method() -> None:
    trial = TrialSpec(method="lora:32:shared-outer:experts", learning_rate=1e-4)  # type: ignore[arg-type]
    assert trial.method == LoRA(rank=32, convention="shared-outer", targets=("experts",))
    assert trial.method.name == "lora:32:shared-outer:experts"
    assert LoRA(rank=32).name == "lora:32", "the default is not spelled"
