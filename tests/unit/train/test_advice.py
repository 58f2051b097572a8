"""What `train` and `compare` say of the plan before they start."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData
from lowregret.data.report import DataReport
from lowregret.plan.make import build_plan
from lowregret.plan.rates.recommend import recommend
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Weight
from lowregret.spec import FullFT, LoRA, OptimizerSpec, TrainSpec, build
from lowregret.spec.plan import PlanSpec
from lowregret.train import advice
from lowregret.train.advice import advice_lines

SHAPES = find_model("Llama-3.1-8B")
EXAMPLES = tuple(Example((1, 2, 3, n), (False, True, True, True)) for n in range(400))
DATA = PreparedData(EXAMPLES, EXAMPLES[:200], DataReport(()))
SPEC = build(TrainSpec, {"model": "llama", "data": {"train": "rows.jsonl"}, "batch_size": 4})


def test_the_advice_is_that_of_the_plan_at_this_batch_and_length() -> None:
    lines = advice_lines(SPEC, SHAPES, DATA, 200, [LoRA(rank=16)])
    rate = recommend(LoRA(rank=64), SHAPES, batch_size=4, steps=200).value
    assert (
        f"LoRA of rank 64 on attention + mlp + unembedding at learning rate {rate:.2g}, batch 4; confidence high"
        in lines[0]
    )
    assert not any("warning" in line for line in lines)


def test_each_method_is_judged_and_a_warning_is_said_once() -> None:
    narrow, high = LoRA(rank=16, targets=("attention",)), LoRA(rank=700)
    lines = advice_lines(SPEC, SHAPES, DATA, 200, [narrow, replace_rank(narrow, 8), high, FullFT()])
    warnings = [line for line in lines if line.startswith("plan: warning: ")]
    assert len(warnings) == 2
    assert "Attention only" in warnings[0]
    assert "break-even" in warnings[1]


def replace_rank(method: LoRA, rank: int) -> LoRA:
    return method.model_copy(update={"rank": rank})


def test_a_rate_of_full_fine_tuning_is_told() -> None:
    rate = recommend(FullFT(), SHAPES, batch_size=4, steps=100).value
    lines = advice_lines(SPEC, SHAPES, DATA, 100, [LoRA(rank=16)], rate)
    assert any("is one for full fine-tuning" in line for line in lines)


def test_a_base_that_cannot_be_counted_is_trained_without_advice() -> None:
    unknown = replace(SHAPES, weights=(Weight("layers", "other", (12, 12), 1, 1),))
    (line,) = advice_lines(SPEC, unknown, DATA, 100, [LoRA(rank=16)])
    assert line.startswith("plan: no advice for this base")


def test_reinforcement_learning_has_its_own_advice() -> None:
    from lowregret.train.rl.problems import Problems

    spec = build(
        TrainSpec, {"model": "llama", "data": {"train": "r.jsonl"}, "objective": {"kind": "rl", "task": "math"}}
    )
    lines = advice_lines(spec, SHAPES, Problems(EXAMPLES, EXAMPLES[:9]), 100, [LoRA(rank=16)])  # type: ignore[arg-type]
    assert "LoRA of rank 8" in lines[0]


class OneMoment(OptimizerSpec):
    """4 bytes of state for each number."""

    STATE = MappingProxyType({"momentum": "weight"})


def test_the_plan_of_a_run_counts_with_the_runs_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[PlanSpec] = []

    def advise(shapes: Any, request: PlanSpec, *others: Any) -> Any:
        requests.append(request)
        return original(shapes, request, *others)

    original = advice.advise
    monkeypatch.setattr(advice, "advise", advise)
    run = SPEC.model_copy(update={"optimizer": OneMoment()})
    assert advice_lines(run, SHAPES, DATA, 100, [LoRA(rank=16)])[0].startswith("plan: ")
    (request,) = requests
    asked, usual = (
        build_plan(SHAPES, PlanSpec(method=LoRA(rank=16), optimizer=o)).asked
        for o in (request.optimizer, SPEC.optimizer)
    )
    assert 2 * asked.memory.optimizer == usual.memory.optimizer
    assert asked.seconds is not None
    assert usual.seconds is not None
    assert asked.seconds < usual.seconds
