"""The readable twin is the trainer: examples/rl_loop.py and `lowregret.train` give the same rewards, to the bit."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import lowregret
from lowregret.runs.metrics import read_metrics
from lowregret.spec import RL

EXAMPLE = Path(__file__).parents[2] / "examples" / "rl_loop.py"


@pytest.mark.parametrize("objective", [RL(task="builtin:arithmetic:difficulty=2,size=40,test_size=8", max_tokens=32)])
def test_the_example_trains_as_the_trainer_does(tmp_path: Path, objective: RL) -> None:
    rl = runpy.run_path(str(EXAMPLE))["rl"]
    curve = rl("tiny", objective, rank=2, learning_rate=5e-3, steps=4, batch_size=4, seed=1)
    record = lowregret.fine_tune(
        "tiny",
        objective.task,
        method="lora:2",
        objective=objective.model_dump(),
        learning_rate=5e-3,
        steps=4,
        batch_size=4,
        seed=1,
        evals=1,
        out=tmp_path / "run",
    )
    steps = [metric.rl.reward for metric in read_metrics(tmp_path / "run" / "metrics.jsonl") if metric.rl]
    assert curve == steps
    assert len(set(curve)) > 1
    assert record.test_reward is not None
