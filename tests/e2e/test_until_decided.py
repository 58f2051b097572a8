"""`lowregret compare --until-decided`: stopped and started again, and taken over by a comparison without the flag."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lowregret.runs.records import TrialRecord
from lowregret.spec import CompareSpec
from lowregret.spec.base import build
from lowregret.study.observer import Silent
from lowregret.study.runner import compare

ASKED = (
    "--model tiny --data builtin:biographies:size=8,wordings=2 --max-length 64 --max-eval 16 --methods "
    "full,lora:1,lora:4 --learning-rates 1e-3,3e-3,9e-3 --steps 24 --batch-size 4 --evals 8 --seeds 2 --replies 0 "
    "--tolerance 90% --prune off"
).split()


@pytest.fixture(scope="module")
def decided(run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder that was decided, and what the command printed."""
    out = tmp_path_factory.mktemp("decided") / "out"
    ended = run("compare", *ASKED, "--until-decided", "--out", out, "--json")
    assert ended.exit_code == 0, ended.stderr
    return out, json.loads(ended.stdout)


def steps(out: Path) -> dict[str, int]:
    """How far each trial has come."""
    return {
        file.parent.name: json.loads(file.read_text().splitlines()[-1])["step"]
        for file in out.glob("trials/*/metrics.jsonl")
    }


def test_it_stops_when_it_is_decided_and_says_what_that_rests_on(decided: Any) -> None:
    out, verdict = decided
    assert verdict["verdict"] == "low_regret"
    decision = verdict["decision"]
    assert decision["rungs"] == [4, 12, 24]
    assert [look["seeds"] for look in decision["looks"]] == [2]
    assert decision["looks"][0]["error"] == pytest.approx(0.05)
    assert {left["method"] for left in decision["left_out"]} <= {"lora:1", "lora:4"}
    assert decision["left_out"]
    taken = steps(out)
    assert sum(taken.values()) == decision["steps"] < 0.8 * decision["usual_steps"]
    assert {4, 24} <= set(taken.values()) <= {4, 12, 24}
    assert any("It was decided at look 1" in reason for reason in verdict["reasons"])
    assert json.loads((out / "decision.json").read_text()) == decision
    page = (out / "report.html").read_text()
    assert "It was decided at look 1" in page
    assert "Trained no further" in page


def test_the_same_command_again_trains_nothing_and_says_the_same(run: Any, decided: Any) -> None:
    out, verdict = decided
    before = steps(out)
    ended = run("compare", *ASKED, "--until-decided", "--out", out, "--json")
    assert ended.exit_code == 0, ended.stderr
    again = json.loads(ended.stdout)
    assert again == verdict
    assert steps(out) == before


def test_it_is_computed_again_from_its_records(run: Any, decided: Any, tmp_path: Path) -> None:
    out, _ = decided
    agreed = run("verify", out)
    assert agreed.exit_code == 0, agreed.stdout
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "decision.json"
    path.write_text(path.read_text().replace('"seeds": 2', '"seeds": 3'))
    told = run("verify", tmp_path / "out")
    assert told.exit_code == 1
    assert "decision.json: looks 0 seeds is 2, computed again 3" in told.stdout


def test_what_no_look_has_settled_is_kept_and_verified_as_open(run: Any, decided: Any, tmp_path: Path) -> None:
    """By the last look's own error the records would rule, as they do where trials came after it."""
    out = Path(shutil.copytree(decided[0], tmp_path / "out"))
    path = out / "decision.json"
    stored = json.loads(path.read_text())
    stored["looks"][-1]["ruling"] = "inconclusive"
    path.write_text(json.dumps(stored))
    ended = run("compare", *ASKED, "--until-decided", "--out", out, "--json")
    assert json.loads(ended.stdout)["verdict"] == "inconclusive"
    agreed = run("verify", out)
    assert agreed.exit_code == 0, agreed.stdout


@pytest.mark.parametrize("said", ["It was decided at look 1", "Trained no further", "The trials of all methods"])
def test_what_it_says_of_how_it_was_decided_is_computed_again(
    run: Any, decided: Any, tmp_path: Path, said: str
) -> None:
    out = Path(shutil.copytree(decided[0], tmp_path / "out"))
    path = out / "verdict.json"
    stored = json.loads(path.read_text())
    (place,) = (place for place, reason in enumerate(stored["reasons"]) if reason.startswith(said))
    stored["reasons"][place] += " It cannot be otherwise."
    path.write_text(json.dumps(stored))
    told = run("verify", out)
    assert told.exit_code == 1
    assert f"verdict.json: reasons {place} is {said}" in told.stdout


def test_a_bank_that_cannot_be_read_stops_it_not(
    run: Any, decided: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast decides nothing."""
    out, verdict = decided
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "lowregret").mkdir()
    (tmp_path / "lowregret" / "bank.jsonl").write_text('{"version": 2}\n')
    ended = run("compare", *ASKED, "--until-decided", "--out", out, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stderr.count("no forecast: ") == 1
    assert "bank.jsonl:1: is of version 2" in ended.stderr
    assert json.loads(ended.stdout) == verdict
    refused = run("forecast", *ASKED, "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "lowregret bank add RUN --bank " in refused.stderr


class Stopping(Silent):
    """Ctrl-C when so many trials have paused or ended."""

    def __init__(self, left: int) -> None:
        self.left = left

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None:
        self.trial_ended(record)

    def trial_ended(self, record: TrialRecord) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_stopped_anywhere_it_goes_on_to_the_same_numbers(decided: Any, tmp_path: Path) -> None:
    out, verdict = decided
    spec = build(CompareSpec, json.loads((out / "spec.json").read_text())["spec"] | {"until_decided": True})
    for stop in (2, 5, 3):
        with suppress(KeyboardInterrupt):
            compare(spec, tmp_path / "out", observer=Stopping(stop))
    found = compare(spec, tmp_path / "out")
    assert found.regret_nats == verdict["regret_nats"]
    assert found.decision is not None
    assert found.decision.model_dump(mode="json") == verdict["decision"]
    assert steps(tmp_path / "out") == steps(out)


def test_a_bank_takes_whole_comparisons_alone(run: Any, decided: Any) -> None:
    out, _ = decided
    ended = run("bank", "add", out, "--bank", out.parent / "own.jsonl")
    assert ended.exit_code == 2
    assert "without the flag" in ended.stderr


def test_another_tolerance_is_another_question(run: Any, decided: Any) -> None:
    out, _ = decided
    asked = [word if word != "90%" else "1%" for word in ASKED]
    ended = run("compare", *asked, "--until-decided", "--out", out, "--json")
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["verdict"] != "low_regret"
    assert len(found["decision"]["looks"]) == 1


def test_a_comparison_without_the_flag_goes_on_and_measures_the_rest(run: Any, decided: Any) -> None:
    out, _ = decided
    before = {file: file.read_bytes() for file in out.glob("trials/*/metrics.jsonl")}
    taken = run("compare", *ASKED, "--out", out, "--json")
    assert taken.exit_code == 0, taken.stderr
    found = json.loads(taken.stdout)
    assert "decision" not in found
    assert {method["name"] for method in found["methods"]} == {"full", "lora:1", "lora:4"}
    assert found["search"]["finished"] == len(steps(out)) >= 12
    assert set(steps(out).values()) == {24}
    kept = [file for file, curve in before.items() if file.read_bytes().startswith(curve)]
    assert len(kept) == len(before), "a trial was begun again"


def test_what_pilots_need_is_told(run: Any, tmp_path: Path) -> None:
    asked = [word if word != "8" else "1" for word in ASKED]
    ended = run("compare", *asked, "--until-decided", "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "--evals 8" in ended.stderr
    assert not (tmp_path / "out").exists(), "bound to evaluations that do not do"
