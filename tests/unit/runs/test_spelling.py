"""Names of before 0.3.0, in today's spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lowregret.runs.records import TrialRecord
from lowregret.runs.spelling import is_older, old_id, old_name, respelled
from lowregret.runs.study import trial_name
from lowregret.spec import FullFT, LoRA, Method, TrialSpec

METHOD: TypeAdapter[FullFT | LoRA] = TypeAdapter(Method)
THEN_AND_NOW = {
    "lora:16": "lora:16:linear",
    "lora:16:attention+mlp+unembedding": "lora:16",
    "lora:1": "lora:1:linear",
    "lora:8:alpha=16:pissa": "lora:8:alpha=16:pissa:linear",
    "lora:16:mlp": "lora:16:mlp",
    "lora:16:attention": "lora:16:attention",
    "lora:4:re:q_proj": "lora:4:re:q_proj",
    "full": "full",
}
METHODS = [METHOD.validate_python(name) for name in THEN_AND_NOW.values()]


@pytest.mark.parametrize(
    ("version", "older"),
    [("0.1.0", True), ("0.2.9", True), ("0.3.0.dev0", False), ("0.3.0", False), ("0.10", False), ("1.0", False)],
)
def test_the_version_decides(version: str, older: bool) -> None:
    assert is_older(version) is older
    assert is_older(None)


@pytest.mark.parametrize(("then", "now"), THEN_AND_NOW.items())
def test_what_a_method_was_called(then: str, now: str) -> None:
    assert old_name(METHOD.validate_python(now)) == then


def test_names_are_respelled_in_texts_and_keys_all_at_once_and_nothing_else() -> None:
    stored: Any = {
        "lora:16": [1.5, None, "full"],
        "reasons": [
            "The loss of lora:16 is below that of lora:16:attention+mlp+unembedding, and lora:1.",
            "lora:16:mlp and lora:64 stay, so does xlora:1; (lora:1) and lora:1: do too.",
        ],
    }
    assert respelled(stored, METHODS) == {
        "lora:16:linear": [1.5, None, "full"],
        "reasons": [
            "The loss of lora:16:linear is below that of lora:16, and lora:1:linear.",
            "lora:16:mlp and lora:64 stay, so does xlora:1; (lora:1:linear) and lora:1:linear: do too.",
        ],
    }
    assert respelled(stored, [FullFT()]) == stored


def test_no_id_of_today_is_one_of_then() -> None:
    trials = [TrialSpec(method=method, learning_rate=1e-3) for method in METHODS]
    moved = [trial for trial in trials if old_id(trial) != trial.id]
    assert len(moved) == 4
    assert not {trial.id for trial in trials} & {old_id(trial) for trial in moved}


def test_a_trial_goes_by_the_id_that_its_folder_has(tmp_path: Path) -> None:
    linear, every = (
        TrialSpec(method=LoRA(rank=2, targets=t), learning_rate=1e-3) for t in (("attention", "mlp"), "all")
    )  # type: ignore[arg-type]
    assert trial_name(tmp_path, linear) == "lora-2-linear_lr0.001_seed0"
    (tmp_path / "trials" / "lora-2_lr0.001_seed0").mkdir(parents=True)
    assert trial_name(tmp_path, linear) == "lora-2_lr0.001_seed0"
    assert trial_name(tmp_path, every) == "lora-2-all_lr0.001_seed0"


def test_a_record_is_called_as_its_spec_says() -> None:
    trial = TrialSpec(method=LoRA(rank=2, targets=("attention", "mlp")), learning_rate=1e-3)
    record = TrialRecord(
        id="lora-2_lr0.001_seed0", method="lora:2", learning_rate=1e-3, seed=0, status="finished", spec=trial
    )
    assert (record.id, record.method) == ("lora-2_lr0.001_seed0", "lora:2:linear")
    assert TrialRecord.model_validate_json(record.model_dump_json()) == record


def test_an_old_name_is_never_taken_for_todays_method_of_that_name() -> None:
    started = {"lora:16": 1e-3, "lora:16:attention+mlp+unembedding": 2e-3, "full": 1e-4}  # an old group's priors.json
    assert respelled(started, [LoRA(rank=16), FullFT()]) == {"lora:16:linear": 1e-3, "lora:16": 2e-3, "full": 1e-4}
