"""A matrix that was targeted and does not train is found, by name, before any result is believed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from lowregret.engine import Engine
from lowregret.errors import LivenessError
from lowregret.models.targets import matrices
from lowregret.spec import DataSpec, FullFT, LoRA, TrainingSpec, TrialSpec
from lowregret.train.sft import run_trial

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


def test_a_matrix_of_the_base_that_gets_no_gradient_is_found(bases: ModuleType, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("qwen3"))
    engine.add_policy("policy", FullFT())
    engine.model.get_submodule(DEAD).register_forward_hook(detach_output)
    with pytest.raises(LivenessError, match=f"received no gradient: {DEAD}.weight"):
        run(bases, engine, FullFT(), tmp_path)


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFT()])
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
