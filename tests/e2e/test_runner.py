"""What the runner does around its trials: early errors, second chances, leftovers of a kill, whose weights it keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lowregret.engine import Engine
from lowregret.errors import LivenessError, TargetError
from lowregret.runs.atomic import read_record
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_trials
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, build
from lowregret.study import opened, runner
from lowregret.study.winners import keep_winners

FIELDS: dict[str, Any] = {
    "model": "tiny",
    "data": {"train": "builtin:biographies:size=2,wordings=1", "max_eval": 4},
    "methods": ["lora:2", "full"],
    "steps": 2,
    "batch_size": 2,
    "seeds": 1,
    "learning_rates": [1e-3],
}


def spec(**changes: Any) -> CompareSpec:
    return build(CompareSpec, {**FIELDS, **changes})


def statuses(folder: Path) -> dict[str, str]:
    return {record.id: record.status for record in read_trials(folder)}


def test_a_target_that_matches_nothing_stops_the_study_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="matches no weight matrix"):
        runner.compare(spec(methods=["full", "lora:2:re:typo"]), tmp_path / "out")
    assert statuses(tmp_path / "out") == {}


def test_a_dead_adapter_stops_the_study_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Engine.optim_step
    monkeypatch.setattr(Engine, "optim_step", lambda engine, params: dict.fromkeys(params, 0.0))
    for _ in range(2):
        with pytest.raises(LivenessError, match="did not move"):
            runner.compare(spec(), tmp_path / "out")
        assert list(statuses(tmp_path / "out").values()) == ["running"]
    monkeypatch.setattr(Engine, "optim_step", step)
    runner.compare(spec(), tmp_path / "out")
    assert set(statuses(tmp_path / "out").values()) == {"finished"}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_a_trial_that_ran_out_of_memory_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(engine: Engine, batches: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "forward_backward", refuse)
        assert runner.compare(spec(), tmp_path / "out").verdict == "inconclusive"
    assert set(statuses(tmp_path / "out").values()) == {"failed"}
    runner.compare(spec(micro_batch_size=1), tmp_path / "out")
    assert set(statuses(tmp_path / "out").values()) == {"finished"}


def test_what_a_kill_left_behind_is_cleared_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = runner.compare(spec(learning_rates=[1e-3, 1e-5]), out)
    files = {path.relative_to(out) for path in out.rglob("*")}
    superseded = next(record for record in read_trials(out) if record.learning_rate == 1e-5)
    home = out / "trials" / superseded.id
    assert not (home / "adapter").exists()
    assert not (home / "model").exists()
    shutil.copytree(out / "best" / "lora", home / ("model" if superseded.method == "full" else "adapter"))
    (out / "verdict.json").unlink()
    again = runner.compare(spec(learning_rates=[1e-3, 1e-5]), out)
    assert again == first
    assert {path.relative_to(out) for path in out.rglob("*")} == files


def test_the_recommended_lora_is_the_one_that_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    verdict = runner.compare(spec(methods=["lora:1", "lora:2", "full"]), out)
    records = read_trials(out)
    for name in ("lora:1", "lora:2"):
        advice = {"method": name, "rank": int(name[-1]), "learning_rate": 1e-3, "batch_size": 2, "targets": ["mlp"]}
        keep_winners(out, Verdict(**{**verdict.model_dump(), "recommendation": advice}), records)
        assert read_record(TrialRecord, out / "best" / "lora" / "trial.json").method == name


def test_every_environment_that_ran_trials_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    runner.compare(spec(), out)
    record = read_trials(out)[0]
    (out / "trials" / record.id / "trial.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(opened, "environment", lambda: {"python": "4.0"})
        verdict = runner.compare(spec(), out)
    assert verdict.environment["python"] != "4.0"
    assert verdict.environment["python, session 2"] == "4.0"
    monkeypatch.setattr(opened, "environment", lambda: {"python": "5.0"})
    assert "5.0" not in json.dumps(runner.compare(spec(), out).environment), "judging alone is no session"
