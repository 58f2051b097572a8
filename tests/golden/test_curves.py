"""Short curves that no refactor may move: the bundled base on built-in data.

After a change that is meant to move them (a new bundled base, another default), record them again and say why in the
commit:

    LOWREGRET_RECORD=1 python -m pytest tests/golden
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lowregret.runs.atomic import read_json
from lowregret.runs.metrics import read_metrics
from lowregret.spec import DataSpec, TrainingSpec, TrainSpec
from lowregret.train.job import evaluate_model, fine_tune

CURVES = Path(__file__).with_name("curves.json")
COMMAND = "LOWREGRET_RECORD=1 python -m pytest tests/golden"
DATA = {
    "arithmetic": "builtin:arithmetic:size=64,test_size=32",  # what the base knows well
    "instructions": "builtin:instructions:size=64,test_size=32",  # in a format that it does not know
}
STEPS = 12
RATES = {"lora:8:linear": 2e-3, "lora:8": 2e-3, "full": 5e-4}
TOLERANCE = 1e-4


def measure(data: str, method: str, out: Path) -> dict[str, Any]:
    """12 steps with three evaluations, through the function behind `lowregret train`."""
    spec = TrainSpec(
        model="tiny",
        data=DataSpec(train=DATA[data]),
        method=method,  # type: ignore[arg-type]
        learning_rate=RATES[method],
        steps=STEPS,
        evals=(4, 8, 12),
        precision="float32",
        device="cpu",
    )
    record = fine_tune(spec, out)
    metrics = read_metrics(out / "metrics.jsonl")
    return {
        "train_nll": [metric.train_nll for metric in metrics],
        "test_nll": [metric.test_nll for metric in metrics if metric.test_nll is not None],
        "tokens": record.tokens,
        "test_tokens": record.test_tokens,
        "trainable_parameters": record.trainable_parameters,
    }


def judge(name: str, found: dict[str, Any]) -> None:
    """Compare with the recorded curve, or record it when asked to."""
    if os.environ.get("LOWREGRET_RECORD"):
        recorded = read_json(CURVES) if CURVES.exists() else {}
        CURVES.write_text(json.dumps({**recorded, name: found}, indent=1, sort_keys=True) + "\n")
        pytest.skip(f"recorded {name} in {CURVES.name}")
    assert CURVES.exists(), f"no recorded curves: run {COMMAND}"
    expected = read_json(CURVES)[name]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        exact = not isinstance(value, list | float)
        wanted = value if exact else pytest.approx(value, abs=TOLERANCE)
        assert found[key] == wanted, f"{name} {key} has moved; if it was meant to: {COMMAND}"


@pytest.mark.parametrize("data", list(DATA))
def test_the_base(data: str) -> None:
    judge(
        f"base, {data}",
        evaluate_model(TrainingSpec(model="tiny", data=DataSpec(train=DATA[data]), precision="float32", device="cpu")),
    )


@pytest.mark.parametrize("method", list(RATES))
@pytest.mark.parametrize("data", list(DATA))
def test_a_short_training(data: str, method: str, tmp_path: Path) -> None:
    found = measure(data, method, tmp_path)
    assert len(found["train_nll"]) == STEPS
    assert len(found["test_nll"]) == 3
    judge(f"{method}, {data}", found)
