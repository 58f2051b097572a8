"""Memory and time take what an optimizer keeps and moves from its declaration, and from nowhere else."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from lowregret.plan.make import build_plan
from lowregret.plan.resources.cost import run_cost
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.resources.memory import memory, trainable
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec
from lowregret.spec.plan import PlanSpec

LLAMA = find_model("Llama-3.1-8B")


class OneMoment(OptimizerSpec):
    """4 bytes of state for each number; a step reads 4 + 4 + 4 and writes 4 + 4."""

    STATE = MappingProxyType({"momentum": "weight"})


@pytest.mark.parametrize("method", [FullFT(), LoRA(rank=16)])
def test_memory_keeps_what_is_declared_and_all_else_stays(method: FullFT | LoRA) -> None:
    numbers = trainable(LLAMA, method)
    usual = memory(LLAMA, method, rows=1, length=512)
    less = memory(LLAMA, method, rows=1, length=512, optimizer=OneMoment)
    assert usual.optimizer == 8 * numbers
    assert less.optimizer == 4 * numbers
    assert replace(less, optimizer=usual.optimizer, fragmentation=usual.fragmentation) == usual


def test_a_step_moves_what_is_declared() -> None:
    device = find_hardware("H100 SXM")
    usual, less = (
        run_cost(LLAMA, FullFT(), device, rows=1, steps=1, length=512, optimizer=optimizer).step_seconds
        for optimizer in (AdamW, OneMoment)
    )
    assert usual - less == pytest.approx(8 * LLAMA.total / device.bytes_per_second)


@pytest.mark.parametrize("method", [FullFT(), LoRA(rank=16)])
def test_a_plan_counts_with_the_optimizer_of_its_request(method: FullFT | LoRA) -> None:
    usual, less = (
        build_plan(LLAMA, PlanSpec(method=method, optimizer=optimizer()), hardware=find_hardware("H100 SXM"))
        for optimizer in (AdamW, OneMoment)
    )
    assert less.asked.memory.optimizer * 2 == usual.asked.memory.optimizer
    assert usual.asked.seconds is not None
    assert less.asked.seconds is not None
    assert less.asked.seconds < usual.asked.seconds
