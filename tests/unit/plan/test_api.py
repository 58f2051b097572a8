"""The plan as a function of names and files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import lowregret
from lowregret.errors import SpecError
from lowregret.plan.api import make_plan
from lowregret.plan.plan import Plan
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.lookup import find_model
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA, TrialSpec


def test_a_name_and_a_source_make_a_plan() -> None:
    found = make_plan("tiny", "builtin:arithmetic:size=32", method="lora:4", batch_size=4)
    assert isinstance(found, Plan)
    assert sum(lora_parameters(find_model("tiny"), 4).values()) == found.lora.trainable


def test_it_is_the_public_function() -> None:
    assert lowregret.make_plan is make_plan


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    """A finished run of `tiny` on rows.jsonl, with five evaluations in the second half of its epoch."""
    home = tmp_path / "pilot"
    home.mkdir()
    spec = TrialSpec(method=LoRA(rank=16), learning_rate=1e-3)
    fields = {"id": "a", "method": "lora:16", "learning_rate": 1e-3, "seed": 0, "status": "finished", "spec": spec}
    write_json(home / "trial.json", TrialRecord(**fields, test_nll=0.5))  # type: ignore[arg-type]
    for step in range(1, 121):
        held_out = 3.0 - 0.5 * math.log(step / 50) if step in (60, 75, 90, 105, 120) else None
        append_metric(
            home / "metrics.jsonl", Metric(step=step, tokens=step, train_nll=3.0, test_nll=held_out, seconds=1.0)
        )
    named = {"model": "tiny", "batch_size": 8, "data": {"train": str(tmp_path / "rows.jsonl")}}
    (home / "spec.json").write_text(json.dumps({"spec": named, "resolved": {"train_examples": 960}}))
    rows = [{"prompt": f"Who is {n}?", "completion": f"Number {n * 7}."} for n in range(960)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def test_a_pilot_of_the_same_base_and_data_is_taken(pilot: Path, tmp_path: Path) -> None:
    found = make_plan("tiny", str(tmp_path / "." / "rows.jsonl"), pilot=str(pilot))
    assert found.as_dict()["capacity"]["regime"] == "teach"
    assert found.information is not None
    assert not found.information.pilot_doubt


def test_a_pilot_of_other_data_is_taken_with_a_doubt_that_is_said_three_times(pilot: Path) -> None:
    """In the warnings, in the confidence and in how far to trust it."""
    found = make_plan("tiny", "builtin:arithmetic:size=256", pilot=str(pilot))
    told = "rows.jsonl: what it says of builtin:arithmetic:size=256 is a guess"
    assert any(told in warning for warning in found.advice.warnings)
    assert told in found.advice.choice.confidence_reason
    assert told in found.trust.parts[1].said


def test_a_pilot_of_another_base_is_refused(pilot: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"trained tiny, with 984,448 parameters.*name a pilot of Qwen/Qwen3-8B"):
        make_plan("qwen3-8b", str(tmp_path / "rows.jsonl"), pilot=str(pilot))


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown option 'batchsize'.*Did you mean 'batch_size'"):
        make_plan("tiny", batchsize=4)
    with pytest.raises(SpecError, match=r"--objective 'sfft'"):
        make_plan("tiny", objective="sfft")
