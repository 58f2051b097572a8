"""In bfloat16 both methods start from the same function: a difference at step 0 would go straight into the regret."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.spec import FullFT, LoRA


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma2"])
def test_lora_and_full_start_as_the_base_to_the_bit(bases: ModuleType, name: str) -> None:
    examples = bases.examples(6)
    losses = []
    for method in (None, LoRA(rank=4), FullFT()):
        engine = Engine(bases.small_base(name), precision="bfloat16")
        if method is not None:
            engine.add_policy("policy", method)
        losses.append(engine.evaluate(["policy"], examples)["policy"][0])
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("method", [LoRA(rank=4), FullFT()])
def test_what_trains_is_float32_and_the_rest_is_not_touched(bases: ModuleType, method: LoRA | FullFT) -> None:
    engine = Engine(bases.small_base("qwen3"), precision="bfloat16")
    policy = engine.add_policy("policy", method)
    assert {weight.dtype for weight in policy.weights.values()} == {torch.float32}
    batch = collate(bases.examples(4))
    before = float(engine.forward_backward({"policy": batch})["policy"].loss)
    engine.optim_step({"policy": AdamParams(1e-2)})
    after = float(engine.forward({"policy": batch})["policy"].loss)
    assert after < before
