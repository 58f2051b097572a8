"""The readable twin is the trainer: examples/sft_loop.py and `lowregret.train` give the same numbers, to the bit."""

from __future__ import annotations

import runpy
from pathlib import Path

import lowregret
from lowregret.runs.metrics import read_metrics

EXAMPLE = Path(__file__).parents[2] / "examples" / "sft_loop.py"
DATA = "builtin:biographies:size=4,wordings=2"


def test_the_example_trains_as_the_trainer_does(tmp_path: Path) -> None:
    sft = runpy.run_path(str(EXAMPLE))["sft"]
    *curve, held_out = sft("tiny", DATA, rank=4, learning_rate=2e-3, steps=6, batch_size=8, seed=1)
    record = lowregret.fine_tune(
        "tiny", DATA, method="lora:4", learning_rate=2e-3, steps=6, batch_size=8, seed=1, out=tmp_path / "run"
    )
    assert curve == [metric.train_nll for metric in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert held_out == record.test_nll
    assert curve[-1] < curve[0]
