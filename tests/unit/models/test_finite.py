"""A weight that is no number ends a command before anything is computed with it, wherever it lies."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.export.peft import export_policy, load_adapter
from lowregret.models.finite import refuse_broken, stored_weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("architecture", "weight", "named"),
    [
        ("llama", "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj"),
        ("llama", "model.embed_tokens.weight", "model.embed_tokens"),  # of a token that no row of the probe has
        ("gpt2", "transformer.h.1.ln_2.bias", "transformer.h.1.ln_2.bias"),
        ("qwen3_moe", "model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.experts.down_proj"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.1.mlp.gate.e_score_corr"),
    ],
)
def test_a_base_is_refused_by_the_name_of_the_matrix(
    bases: ModuleType, architecture: str, weight: str, named: str, value: float
) -> None:
    base = bases.small_base(architecture)
    tensor = stored_weights(base.model)[weight]
    with torch.no_grad():
        tensor.view(-1)[-1] = value
    with pytest.raises(ModelError, match=rf"^{architecture}: {named}.*\(1 of its {tensor.numel():,}\).*fetch it again"):
        Engine(base)


def test_the_first_is_named_and_the_others_are_counted() -> None:
    weights = {"a.weight": torch.ones(3), "b.weight": torch.full((2,), math.nan), "c": torch.full((2,), math.inf)}
    with pytest.raises(ModelError, match=r"^m: b holds .* \(2 of its 2\), and 1 more of its weights do\. Do\."):
        refuse_broken("m", weights, "Do.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_that_is_too_large_is_no_fault(dtype: torch.dtype) -> None:
    refuse_broken("m", {"a": torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)}, "Do.")
    refuse_broken("m", {}, "Do.")


def test_a_base_whose_numbers_overflow_is_refused(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    with torch.no_grad():
        base.model.model.norm.weight.fill_(3e38)
        base.model.lm_head.weight.mul_(1000)
    with pytest.raises(ModelError, match="gives no finite probabilities, though its weights are finite"):
        Engine(base)


def test_an_adapter_is_refused_and_leaves_nothing_behind(bases: ModuleType, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("llama"))
    policy = bases.adapted(engine, "a")
    name = next(name for name in policy.weights if name.endswith("lora_B"))
    with torch.no_grad():
        policy.weights[name][0, 0] = math.nan
    export_policy(engine, "a", tmp_path / "adapter")
    again = Engine(bases.small_base("llama"))
    with pytest.raises(ModelError, match=f"adapter: {name} holds numbers that are not finite"):
        load_adapter(again, "b", tmp_path / "adapter")
    assert not again.policies
