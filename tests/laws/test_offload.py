"""Activations in the host's memory change no bit, and weights are not among them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.engine.footprint import max_tokens
from lowregret.engine.forward import offload
from lowregret.spec import FullFT, LoRA

METHODS = {"lora": LoRA(rank=3), "dropout": LoRA(rank=3, dropout=0.1, targets=("attention",)), "full": FullFT()}


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_offloaded_activations_change_no_bit(bases: ModuleType, method: str, precision: str, architecture: str) -> None:
    found = []
    for offloading in (False, True):
        engine = Engine(bases.small_base(architecture), precision=precision, offload_activations=offloading)
        policy = engine.add_policy("a", METHODS[method], seed=1)
        for number in range(2):
            engine.forward_backward({"a": collate(bases.examples(4, seed=number))})
            engine.optim_step({"a": AdamParams(1e-2)})
        found.append(bases.weights(policy))
    assert bases.same(*found)


def test_weights_stay_and_what_is_computed_goes() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(3, 8, requires_grad=True)
    with offload.offloaded(layer):  # type: ignore[arg-type]
        y: Any = layer(x)
    saved = {name: getattr(y.grad_fn, name).untyped_storage().data_ptr() for name in ("_saved_mat1", "_saved_mat2")}
    assert saved["_saved_mat2"] == layer.weight.untyped_storage().data_ptr()
    assert saved["_saved_mat1"] != x.untyped_storage().data_ptr()
    assert torch.equal(y.grad_fn._saved_mat1, x)


def test_a_pass_may_hold_more(bases: ModuleType) -> None:
    plain, offloading = (
        Engine(bases.small_base("qwen3"), device="cpu", offload_activations=asked) for asked in (False, True)
    )
    for engine in (plain, offloading):
        engine.add_policy("a", LoRA(rank=3))
    each = 200_000
    assert max_tokens(offloading, ["a"], each) > max_tokens(plain, ["a"], each)
