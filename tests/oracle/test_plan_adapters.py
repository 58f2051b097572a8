"""The plan counts, without torch, exactly the adapters that the engine makes."""

from __future__ import annotations

from types import ModuleType

import pytest

from lowregret.models.targets import find_targets, matrices
from lowregret.plan.adapters import lora_parameters
from lowregret.plan.layouts import shapes_of

_ARCHITECTURES = ["llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_neox", "opt", "qwen3_moe", "mixtral"]
_DENSE = [name for name in _ARCHITECTURES if name not in ("qwen3_moe", "mixtral")]
_RANK = 3


@pytest.mark.parametrize("architecture", _ARCHITECTURES)
@pytest.mark.parametrize("group", ["attention", "mlp", "unembedding"])
def test_groups_hold_the_same_matrices(architecture: str, group: str, bases: ModuleType) -> None:
    model = bases.small_model(architecture)
    adapted = sum(_RANK * (m.d_in + m.d_out) for m in matrices(model) if m.group == group)
    shapes = shapes_of(model.config.to_dict(), architecture)
    planned = lora_parameters(shapes, _RANK, ("attention", "mlp", "unembedding"))
    assert planned[group] == adapted


@pytest.mark.parametrize("architecture", _DENSE)
@pytest.mark.parametrize("pattern", [r"re:\.0\.", r"re:(up_proj|c_fc|fc1|4h|gate_up_proj)$"])
def test_patterns_match_the_same_modules(architecture: str, pattern: str, bases: ModuleType) -> None:
    model = bases.small_model(architecture)
    found = find_targets(model, matrices(model), (pattern,))
    planned = lora_parameters(shapes_of(model.config.to_dict(), architecture), _RANK, pattern)
    assert sum(planned.values()) == sum(_RANK * (m.d_in + m.d_out) for m in found)
