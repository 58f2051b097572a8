"""Claims and verdicts are computed again, and tampering is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import judge_study
from lowregret.report import verification
from lowregret.report.verification import verify_folder


@pytest.fixture
def study(every_study: Path, tmp_path: Path) -> Path:
    """A study as a run leaves it: the simulator leaves out the lines of steps at which nothing is evaluated."""
    study = Path(shutil.copytree(every_study / "learning-rate", tmp_path / "study"))
    for file in study.rglob("metrics.jsonl"):
        told = {line["step"]: line for line in map(json.loads, file.read_text().splitlines())}
        lines = [told.get(step, {"step": step, "tokens": step, "seconds": step}) for step in range(max(told) + 1)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return study


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_what_was_not_touched_verifies(study: Path) -> None:
    found = verify_folder(study)
    assert not found.differences
    assert any("claims" in line for line in found.lines)


def test_what_holms_correction_leaves_of_a_ruling_is_said(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a claim that rules by its own p-value but is open as one of many; 0.05 of each of the three that have one."""
    found = judge_study(read_evidence(study))
    claim = next(claim for claim in found.claims if claim.ruling != "open")
    many = tuple(one.model_copy(update={"corrected": "open"}) if one == claim else one for one in found.claims)
    monkeypatch.setattr(verification, "judge_study", lambda _: found.model_copy(update={"claims": many}))
    said = next(line for line in verify_folder(study).lines if "claims" in line)
    assert f"{claim.statement.key} {claim.ruling} (by Holm: open)" in said
    assert said.count("by Holm") == 1
    assert said.endswith("Up to 0.15 of these may be expected to be false by chance")


def test_a_claim_that_was_improved_is_seen(study: Path) -> None:
    edit(study / "claims.json", lambda value: value["claims"][0].update(ruling="does not hold"))
    assert any("ruling" in line for line in verify_folder(study).differences)


def test_a_threshold_that_was_moved_is_seen(study: Path) -> None:
    edit(study / "study.json", lambda value: value["claims"][0].update(high=100.0))
    assert any("stated before the run" in line for line in verify_folder(study).differences)


def test_a_loss_that_was_improved_is_seen(study: Path) -> None:
    path = next(study.glob("groups/main.lora/trials/*/trial.json"))
    edit(path, lambda value: value.update(test_nll=0.1))
    assert any("examples.json" in line for line in verify_folder(study).differences)


def test_a_study_that_is_not_done_says_what_to_do(study: Path) -> None:
    (study / "groups/main.full/base.json").unlink()
    with pytest.raises(RecordsError, match="Run the same `lowregret study` again"):
        read_evidence(study)
