"""How far a study is, by its folder alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.questions.registry import make_question
from lowregret.runs.lock import lock_run
from lowregret.study.status import read_status
from unit.study import fake_studies

QUESTION = make_question({"kind": "batch-size", "seeds": 1})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    fake_studies.make(tmp_path / "study", QUESTION)
    return tmp_path / "study"


def states(folder: Path) -> dict[str, str]:
    (found,) = read_status(folder)
    return {group.standing.key: group.state for group in found.groups}


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_is_done_what_is_stopped_and_what_waits(study: Path) -> None:
    assert set(states(study).values()) == {"done"}
    (study / "claims.json").unlink()
    assert set(states(study).values()) == {"done"}, "by the records, not by the claims"
    first, second, third = sorted((study / "groups").iterdir())[:3]
    trial = next(first.glob("trials/*/trial.json"))
    change(trial, status="running")
    next(second.glob("trials/*/trial.json")).unlink()  # its search asks for this one again
    for path in sorted(third.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with lock_run(second):
        found = states(study)
    assert (found[first.name], found[second.name], found[third.name]) == ("stopped", "training", "waiting")
    assert states(study)[second.name] == "stopped"


def test_the_words_on_a_terminal_and_as_json(study: Path, run: Callable[..., Any]) -> None:
    (study / "claims.json").unlink()
    group = sorted((study / "groups").iterdir())[0]
    running, failed = sorted(group.glob("trials/*/trial.json"))[:2]
    change(running, status="running")
    change(failed, status="failed", error="3 workers were lost at it, the last because killed")
    (study / "logs").mkdir()
    (study / "logs" / f"{group.name}.txt").write_text("".join(f"line {n}\n" for n in range(9)))
    done = run("study", "status", study)
    assert done.exit_code == 0, done.stderr
    assert "1 stopped; no claims yet" in done.stdout
    assert f"{failed.parent.name}: failed: 3 workers were lost" in done.stdout
    assert "line 3" not in done.stdout
    assert "    line 8" in done.stdout
    assert "The same command goes on: lowregret study fake" in done.stdout
    steps = json.loads((running.parent / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert f"{steps}/" in done.stdout
    found = json.loads(run("study", "status", study.parent, "--json").stdout)["studies"][str(study)]
    assert found["groups"][group.name]["state"] == "stopped"
    assert found["groups"][group.name]["training"][0]["step"] == steps
    assert list(found["groups"][group.name]["failed"]) == [failed.parent.name]


def test_what_is_no_study_is_told(tmp_path: Path, run: Callable[..., Any]) -> None:
    with pytest.raises(RecordsError, match=r"holds no study \(study.json\)"):
        read_status(tmp_path)
    assert "missing FOLDER" in run("study", "status").stderr
    ran = run("study", "status", tmp_path, "--seeds", "8")
    assert (ran.exit_code, "--seeds: is of no use with `status`" in ran.stderr) == (2, True)
    ran = run("study", "status", tmp_path, "--quick")
    assert (ran.exit_code, "--quick: is of no use with `status`" in ran.stderr) == (2, True)
    assert "its --out" in run("study", "rank", tmp_path).stderr


def test_priors_that_are_none_are_a_group_that_asks_for_more(study: Path) -> None:
    (study / "claims.json").unlink()
    for content in ("null", "[]", '{"full": "x"}', '{"full": -1.0}'):
        for path in study.glob("groups/*/priors.json"):
            path.write_text(content)
        assert set(states(study).values()) == {"stopped"}


def test_a_pipe_in_the_place_of_a_curve_or_a_log_holds_nobody_up(study: Path) -> None:
    group = sorted((study / "groups").iterdir())[0]
    trial = next(group.glob("trials/*/trial.json"))
    change(trial, status="running")
    (trial.parent / "metrics.jsonl").unlink()
    (study / "claims.json").unlink()
    (study / "logs").mkdir()
    os.mkfifo(trial.parent / "metrics.jsonl")
    os.mkfifo(study / "logs" / f"{group.name}.txt")
    assert states(study)[group.name] == "stopped"
