"""A matrix that was targeted and does not train is found, by name, before any result is believed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from lowregret.engine import Engine
from lowregret.errors import LivenessError
from lowregret.lora.moe.factors import ExpertFactors
from lowregret.lora.moe.rows import RowRouting
from lowregret.models.targets import matrices
from lowregret.spec import DataSpec, FullFT, LoRA, TrainingSpec, TrialSpec
from lowregret.spec.conventions import CONVENTIONS
from lowregret.train.liveness import expert_use
from lowregret.train.sft.alone import run_trial

DEAD = "model.layers.1.mlp.up_proj"


def run(bases: ModuleType, engine: Engine, method: Any, folder: Path, learning_rate: float = 1e-3) -> None:
    spec = TrainingSpec(model="small", data=DataSpec(train="small"), batch_size=4, steps=3)
    trial = TrialSpec(method=method, learning_rate=learning_rate)
    run_trial(engine, "policy", spec, trial, bases.examples(12), [], folder)


def detach_output(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.detach()


@pytest.mark.parametrize("method", [LoRA(rank=2, targets=("attention", "mlp", "unembedding")), FullFT()])
def test_healthy_training_passes(bases: ModuleType, architecture: str, method: Any, tmp_path: Path) -> None:
    engine = Engine(bases.small_base(architecture))
    engine.add_policy("policy", method)
    run(bases, engine, method, tmp_path)


def test_an_adapter_behind_a_detached_output_is_found(bases: ModuleType, tmp_path: Path) -> None:
    engine, method = Engine(bases.small_base("qwen3")), LoRA(rank=2)
    engine.add_policy("policy", method)
    engine.model.get_submodule(DEAD).register_forward_hook(detach_output)
    with pytest.raises(LivenessError, match=rf"step 1, 1 of .* received no gradient: {DEAD}\.lora_B\."):
        run(bases, engine, method, tmp_path)


def test_an_adapter_that_is_left_out_of_the_forward_is_found(bases: ModuleType, tmp_path: Path) -> None:
    engine, method = Engine(bases.small_base("qwen3")), LoRA(rank=2)
    engine.add_policy("policy", method)
    linear: Any = engine.model.get_submodule(DEAD)
    linear.forward = linear.base.forward
    with pytest.raises(LivenessError, match=f"received no gradient: {DEAD}.lora_B"):
        run(bases, engine, method, tmp_path)


def test_a_dead_a_is_found_in_the_second_step(bases: ModuleType, tmp_path: Path) -> None:
    """In the first, A has no gradient by construction: B is zero."""
    engine, method = Engine(bases.small_base("qwen3")), LoRA(rank=2)
    policy: Any = engine.add_policy("policy", method)
    whole = policy.bank.a_gradient
    policy.bank.a_gradient = lambda name, slots: whole(name, slots).clone() if name == DEAD else whole(name, slots)
    with pytest.raises(LivenessError, match=f"step 2, 1 of .* received no gradient: {DEAD}.lora_A"):
        run(bases, engine, method, tmp_path)


@pytest.mark.parametrize("method", [FullFT(), FullFT(in_backward=True)])
def test_a_matrix_of_the_base_that_gets_no_gradient_is_found(bases: ModuleType, method: FullFT, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("qwen3"))
    engine.add_policy("policy", method)
    engine.model.get_submodule(DEAD).register_forward_hook(detach_output)
    with pytest.raises(LivenessError, match=f"received no gradient: {DEAD}.weight"):
        run(bases, engine, method, tmp_path)


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT(), FullFT(in_backward=True)])
def test_a_matrix_that_the_forward_does_not_use_is_found(bases: ModuleType, method: Any, tmp_path: Path) -> None:
    base = bases.small_base("qwen3")
    base.model.get_submodule("model.layers.0.mlp").spare_proj = nn.Linear(16, 16, bias=False)
    assert "model.layers.0.mlp.spare_proj" in {matrix.name for matrix in matrices(base.model)}
    engine = Engine(base)
    engine.add_policy("policy", method)
    with pytest.raises(LivenessError, match=r"model\.layers\.0\.mlp\.spare_proj.*re:REGEX"):
        run(bases, engine, method, tmp_path)


def test_a_matrix_that_does_not_move_is_found(bases: ModuleType, tmp_path: Path) -> None:
    """A rate below what float32 can add to these weights."""
    engine = Engine(bases.small_base("qwen3"))
    engine.add_policy("policy", FullFT())
    with pytest.raises(LivenessError, match="did not move"):
        run(bases, engine, FullFT(), tmp_path, learning_rate=1e-30)


def test_many_dead_matrices_are_counted_and_some_named(bases: ModuleType, tmp_path: Path) -> None:
    engine, method = Engine(bases.small_base("qwen3")), LoRA(rank=2)
    policy: Any = engine.add_policy("policy", method)
    for name in policy.adapters:
        if ".mlp." in name:
            engine.model.get_submodule(name).register_forward_hook(detach_output)
    with pytest.raises(LivenessError, match=r"6 of the targeted matrices received no gradient: .* and 1 more"):
        run(bases, engine, method, tmp_path)


MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]
ALL = ("attention", "mlp", "router", "unembedding")


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_healthy_training_of_a_mixture_passes(
    bases: ModuleType, architecture: str, convention: Any, tmp_path: Path
) -> None:
    engine, method = Engine(bases.small_base(architecture)), LoRA(rank=4, targets=ALL, convention=convention)
    engine.add_policy("policy", method)
    run(bases, engine, method, tmp_path)


@pytest.mark.parametrize("architecture", MIXTURES)
def test_healthy_full_fine_tuning_of_a_mixture_passes(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    engine = Engine(bases.small_base(architecture))
    engine.add_policy("policy", FullFT())
    run(bases, engine, FullFT(), tmp_path)


class DeadExpert(ExpertFactors):
    """An implementation that forgets the adapter of one expert."""

    def expand(self, block: Any, total: Any, u: Any) -> None:
        kept = u.clone()
        kept[block.expert == 2] = 0
        super().expand(block, total, kept)

    def expanded_gradient(self, block: Any, dy: Any, u: Any) -> Any:
        kept = dy.clone()
        kept[block.expert == 2] = 0
        return super().expanded_gradient(block, kept, u)


def forget_one(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    whole = ExpertFactors.of

    def forgetful(routing: RowRouting, matrix: str, experts: int, dtype: torch.dtype) -> ExpertFactors:
        found = whole(routing, matrix, experts, dtype)
        return DeadExpert(**vars(found)) if matrix.endswith(role) else found

    monkeypatch.setattr(ExpertFactors, "of", forgetful)


@pytest.mark.parametrize("role", ["gate_proj", "up_proj", "down_proj"])
def test_one_experts_dead_adapter_is_found_by_name(
    bases: ModuleType, role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine, method = Engine(bases.small_base("qwen3_moe")), LoRA(rank=4, targets=("experts",))
    engine.add_policy("policy", method)
    forget_one(monkeypatch, role)
    dead = rf"model\.layers\.0\.mlp\.experts\.{role}\.lora_B of expert 2"
    with pytest.raises(LivenessError, match=rf"step 1, 2 of .* received no gradient: {dead}, "):
        run(bases, engine, method, tmp_path)


def test_one_experts_dead_a_is_found_in_the_second_step(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine, method = Engine(bases.small_base("qwen3_moe")), LoRA(rank=4, targets=("experts",))
    engine.add_policy("policy", method)
    whole = ExpertFactors.add_a_gradient

    def forgetful(self: ExpertFactors, block: Any, du: Any, rows: Any) -> None:
        kept = du.clone()
        kept[block.expert == 1] = 0
        whole(self, block, kept, rows)

    monkeypatch.setattr(ExpertFactors, "add_a_gradient", forgetful)
    with pytest.raises(LivenessError, match=r"step 2, 6 of .* no gradient: .*experts\.gate_proj\.lora_A of expert 1"):
        run(bases, engine, method, tmp_path)


@pytest.mark.parametrize("method", [LoRA(rank=4, targets=("experts",)), FullFT()])
def test_experts_that_no_token_was_sent_to_are_listed_and_no_error(
    bases: ModuleType, method: Any, tmp_path: Path
) -> None:
    base = bases.small_base("gpt_oss")  # whose router has a bias
    base.model.model.layers[1].mlp.router.bias.data[3] = -1e9
    engine = Engine(base)
    engine.add_policy("policy", method)
    run(bases, engine, method, tmp_path)
    first, second = expert_use(engine, "policy")
    assert second.module == "model.layers.1.mlp.experts"
    assert second.untrained == (3,)
    written = json.loads((tmp_path / "experts.json").read_text())
    assert {module: facts["untrained"] for module, facts in written.items()} == {first.module: [], second.module: [3]}
    assert second.pairs[3] == 0
    assert first.untrained == ()
    assert sum(first.pairs) == sum(second.pairs)
    assert 0 < sum(second.reached) < sum(first.reached), "in the last layer, only supervised positions have a gradient"


def test_an_expert_of_the_base_that_gets_no_gradient_is_found(bases: ModuleType, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("qwen3_moe"))
    policy = engine.add_policy("policy", FullFT())
    weight = policy.weights["model.layers.0.mlp.experts.down_proj"]
    mask = torch.ones_like(weight)
    mask[1] = 0
    weight.register_hook(lambda gradient: gradient * mask)
    with pytest.raises(LivenessError, match=r"step 1, 1 of .* no gradient: .*experts\.down_proj of expert 1"):
        run(bases, engine, FullFT(), tmp_path)
