"""The plan counts, without torch, exactly the adapters that the engine makes."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import pytest

from lowregret.errors import TargetError
from lowregret.models.targets import Matrix, find_targets, matrices
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.layouts.from_config import shapes_of

_ARCHITECTURES = ["llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_neox", "opt", "qwen3_moe", "mixtral"]
_RANK = 3


@pytest.mark.parametrize("architecture", _ARCHITECTURES)
@pytest.mark.parametrize("group", ["attention", "mlp", "experts", "router", "unembedding"])
def test_groups_hold_the_same_matrices(architecture: str, group: str, bases: ModuleType) -> None:
    model = bases.small_model(architecture)
    found = [matrix for matrix in matrices(model) if matrix.group == group]
    shapes = shapes_of(model.config.to_dict(), architecture)
    if not found and group != "mlp":  # a mixture without dense layers: `mlp` is its experts
        with pytest.raises(TargetError, match=f"no {group!r} matrix"):
            lora_parameters(shapes, _RANK, (group,))
        return
    planned = lora_parameters(shapes, _RANK, (group,), "full-rank-each")
    assert planned.get(group) == _adapted(found)


def _adapted(found: Sequence[Matrix]) -> int:
    """Parameters of a LoRA on these, on every expert alike."""
    return sum(_RANK * (m.d_in + m.d_out) * (m.experts.count if m.experts else 1) for m in found)


@pytest.mark.parametrize("architecture", _ARCHITECTURES)
@pytest.mark.parametrize("pattern", [r"re:\.0\.", r"re:(up_proj|c_fc|fc1|4h|gate_up_proj)$"])
def test_patterns_match_the_same_modules(architecture: str, pattern: str, bases: ModuleType) -> None:
    model = bases.small_model(architecture)
    found = find_targets(model, matrices(model), (pattern,))
    shapes = shapes_of(model.config.to_dict(), architecture)
    assert sum(lora_parameters(shapes, _RANK, pattern, "full-rank-each").values()) == _adapted(found)
