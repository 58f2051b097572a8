"""The plan's multiply-adds are those that torch's own counter sees in a step of the engine."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.plan.resources.flops import multiply_adds
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.weights import AttentionLayers, Shapes
from lowregret.spec import FullFT, LoRA

_ROWS, _LENGTH, _SUPERVISED = 3, 24, 12
_METHODS = (
    LoRA(rank=4),
    LoRA(rank=16),
    LoRA(rank=4, targets=("mlp",)),
    LoRA(rank=4, targets=("attention",)),
    LoRA(rank=4, targets=("unembedding",)),
    LoRA(rank=4, targets=("attention", "mlp", "unembedding")),
    FullFT(),
)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "phi3", "opt"])
@pytest.mark.parametrize("method", _METHODS, ids=lambda method: method.name)
def test_a_step_of_the_engine(architecture: str, method: LoRA | FullFT, bases: ModuleType) -> None:
    """Forward and backward together; the counter knows no attention kernel of the CPU, which the next test has."""
    base = bases.small_base(architecture)
    engine = Engine(base)
    engine.add_policy("own", method)
    mask = (False,) * (_LENGTH + 1 - _SUPERVISED) + (True,) * _SUPERVISED
    batch = collate([Example(tuple(range(2, 2 + len(mask))), mask)] * _ROWS, base.pad_id)
    with _counter() as counter:
        engine.forward_backward({"own": batch})
    counted = counter.get_flop_counts()["Global"]
    assert not any("attention" in str(operation) for operation in counted)
    planned = multiply_adds(shapes_of(base.model.config.to_dict(), architecture), method, _LENGTH, 0.5)
    scores = planned.forward["scores"] + planned.backward["scores"]
    assert 2 * _ROWS * _LENGTH * (planned.total - scores) == pytest.approx(sum(counted.values()), rel=1e-9)


def test_a_forward_pass_alone(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    engine = Engine(base)
    engine.add_policy("own", LoRA(rank=4))
    batch = collate([Example(tuple(range(2, 3 + _LENGTH)), (False,) + (True,) * _LENGTH)], base.pad_id)
    with _counter() as counter:
        engine.forward({"own": batch})
    planned = multiply_adds(shapes_of(base.model.config.to_dict(), "llama"), LoRA(rank=4), _LENGTH).forward
    expected = 2 * _LENGTH * (sum(planned.values()) - planned["scores"])
    assert expected == pytest.approx(sum(counter.get_flop_counts()["Global"].values()), rel=1e-9)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_attention_is_half_of_the_square_that_plain_attention_computes(length: int) -> None:
    heads, width = 4, 8
    q, k, v = (torch.randn(1, heads, length, width, requires_grad=True) for _ in range(3))
    with _counter() as counter, sdpa_kernel(SDPBackend.MATH):
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    square = sum(counter.get_flop_counts()["Global"].values())
    planned = multiply_adds(_attention_only(heads, width, None), FullFT(), length)
    half_and_diagonal = (length + 1) / (2 * length)
    assert 2 * length * planned.total == pytest.approx(square * half_and_diagonal, rel=1e-9)


@pytest.mark.parametrize(("length", "window"), [(10, 3), (10, 10), (10, 64), (5, 1)])
def test_a_window_is_a_band(length: int, window: int) -> None:
    pairs = sum(min(position + 1, window) for position in range(length))
    planned = multiply_adds(_attention_only(2, 4, window), FullFT(), length).forward["scores"]
    assert length * planned == pytest.approx(2 * (4 + 4) * pairs)


def _attention_only(heads: int, width: int, window: int | None) -> Shapes:
    group = AttentionLayers(1, heads, heads, width, width, window)
    return Shapes("attention", "llama", heads * width, 1, 1, None, None, 0, 0, (), (group,))


def _counter() -> FlopCounterMode:
    """torch's counter; it leaves out products in place unless told how to count them."""

    def product(total: Any, left: Any, right: Any, **others: Any) -> int:
        return int(2 * math.prod(left) * right[-1])

    in_place = {torch.ops.aten.addmm_: product, torch.ops.aten.baddbmm_: product}
    return FlopCounterMode(display=False, custom_mapping=in_place)
