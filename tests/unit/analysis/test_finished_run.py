"""EDL from a run folder's files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lowregret.analysis.finished_run import read_edl
from lowregret.errors import RecordsError
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA, TrialSpec

LOSSES = (2.0, 1.5, 1.0, 0.5, 0.4, 0.3)
"""Of six steps; four are an epoch."""


def trial(home: Path, rank: int = 4, test_nll: float | None = 0.25, status: str = "finished") -> None:
    home.mkdir(parents=True)
    spec = TrialSpec(method=LoRA(rank=rank), learning_rate=1e-3)
    write_json(
        home / "trial.json",
        TrialRecord(
            id=home.name,
            method=spec.method.name,
            learning_rate=1e-3,
            seed=0,
            status=status,
            spec=spec,
            test_nll=test_nll,
        ),  # type: ignore[arg-type]
    )
    for step, loss in enumerate(LOSSES, start=1):
        held_out = {2: 1.0, 4: 0.5, 6: 0.25}.get(step)
        append_metric(
            home / "metrics.jsonl", Metric(step=step, tokens=step, train_nll=loss, test_nll=held_out, seconds=1.0)
        )


def run_spec(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(
        json.dumps({"spec": {"batch_size": 8, "data": {"train": "rows.jsonl"}}, "resolved": {"train_examples": 30}})
    )


def test_the_first_epoch_alone_is_summed(tmp_path: Path) -> None:
    trial(tmp_path / "run")
    run_spec(tmp_path / "run")
    found, _ = read_edl(tmp_path / "run")
    assert found.bits_per_token == pytest.approx((1.25 - 0.25) / math.log(2))
    # After two steps (1.75 − 1.0), after four (1.25 − 0.5): equal, so neither regime.
    assert found.slope == pytest.approx(0, abs=1e-12)


def test_a_study_gives_its_best_trial_at_the_highest_rank(tmp_path: Path) -> None:
    run_spec(tmp_path)
    trial(tmp_path / "trials" / "a", rank=4, test_nll=0.1)
    trial(tmp_path / "trials" / "b", rank=16, test_nll=0.3)
    trial(tmp_path / "trials" / "c", rank=16, test_nll=0.2)
    trial(tmp_path / "trials" / "d", rank=64, test_nll=None, status="diverged")
    found, name = read_edl(tmp_path)
    assert found.bits_per_token == pytest.approx((1.25 - 0.2) / math.log(2))
    assert name == f"EDL of lora:16 in {tmp_path}, on rows.jsonl"
    assert read_edl(tmp_path / "trials" / "c")[0] == found


def test_what_is_no_pilot_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no such folder"):
        read_edl(tmp_path / "nowhere")
    with pytest.raises(RecordsError, match="no finished trial"):
        read_edl(tmp_path)
    trial(tmp_path / "run", status="running")
    run_spec(tmp_path / "run")
    with pytest.raises(RecordsError, match="must be finished"):
        read_edl(tmp_path / "run")
    trial(tmp_path / "other")
    with pytest.raises(RecordsError, match=r"spec\.json"):
        read_edl(tmp_path / "other")
    (tmp_path / "other" / "spec.json").write_text('{"spec": {}}')
    with pytest.raises(RecordsError, match="names no data, batch_size"):
        read_edl(tmp_path / "other")


def test_what_a_comparison_measured_is_said_with_what_was_forecast(tmp_path: Path) -> None:
    run_spec(tmp_path)
    trial(tmp_path / "trials" / "a", rank=4)
    lora = {
        "name": "lora:4", "best_learning_rate": 1e-3, "bracketed": True, "test_nll": 0.25, "seeds": 2, "trials": 6,
        "tokens": 6, "seconds": 1.0, "peak_memory_bytes": 0, "trainable_parameters": 9, "checkpoint_bytes": 0,
    }  # fmt: skip
    verdict = {
        "verdict": "low_regret", "regret_nats": 0.01, "regret_percent": 4.0, "ci95": None, "tolerance_nats": 0.1,
        "reasons": [], "recommendation": None, "methods": [lora], "lora": lora, "full": None, "regret_learned": 0.021,
    }  # fmt: skip
    write_json(tmp_path / "verdict.json", verdict)
    _, name = read_edl(tmp_path)
    assert name.endswith("on rows.jsonl; lora:4 had a regret of +2.1% of what is learned there")
    regret = {
        "method": "lora:4", "share": 0.03, "share_interval": (0.0, 0.06), "chance_low": 0.9, "far": False,
    }  # fmt: skip
    forecast = {"forecasts": [regret], "tolerance": 0.05, "step": 0, "steps": 6, "cost": 0.0, "bank": "12 comparisons"}
    write_json(tmp_path / "forecast.json", forecast)
    _, name = read_edl(tmp_path)
    assert name.endswith("of what is learned there, where +3.0% was forecast")
    (tmp_path / "forecast.json").write_text('{"forecasts": []}')
    _, name = read_edl(tmp_path)
    assert name.endswith("of what is learned there (its forecast.json is damaged)")
