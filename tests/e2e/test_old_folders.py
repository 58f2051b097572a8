"""Run folders of an earlier version (tests/fixtures/runs_15ef6b8): they resume, report, verify and export as before."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OLD = Path(__file__).parents[1] / "fixtures" / "runs_15ef6b8"
ELSEWHERE = 2e-2
"""A resumed training may differ by so much, relatively: another processor rounds otherwise."""


@pytest.fixture
def old(tmp_path: Path) -> Callable[[str], Path]:
    """`old("compare")`: a copy of that folder, to work in."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(OLD / name, tmp_path / name))

    return copy


def again(folder: Path) -> list[str]:
    """The command that made the folder, for its copy, in words of today: LoRAs were on attention and mlp."""
    head = folder / "study.json" if (folder / "study.json").exists() else folder / "spec.json"
    words = shlex.split(json.loads(head.read_text())["command"])[1:]
    words[words.index("--out") + 1] = str(folder)
    for flag in {"--methods", "--method"} & {*words}:
        place = words.index(flag) + 1
        words[place] = today(words[place])
    return [*words, "--targets", "linear"] if words[0] == "study" else words


def today(text: str) -> str:
    """With the names that methods have since 0.3.0."""
    return re.sub(r"lora:\d+(?![:\d])", r"\g<0>:linear", text)


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


def trials(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("**/trials/*/trial.json"))}


def test_a_finished_compare_trains_what_todays_rules_need_and_is_judged_by_them(
    run: Any, old: Callable[[str], Path]
) -> None:
    """That is what was pruned beside a best rate: the interval of today needs it. What finished stays as it was."""
    folder = old("compare")
    done, before = trials(folder), loaded(folder / "verdict.json")
    kept = {name: record for name, record in done.items() if json.loads(record)["status"] == "finished"}
    ended = run(*again(folder))
    assert ended.exit_code == 0, ended.stderr
    assert kept.items() <= trials(folder).items()
    assert trials(folder).keys() == done.keys()
    found = loaded(folder / "verdict.json")
    assert found["base_nll"] == before["base_nll"]
    assert found["full"]["test_nll"] == before["full"]["test_nll"]
    assert found["judged_by"] is not None
    assert found["tolerance_nats"] == before["tolerance_nats"], "the tolerance that it was begun with"
    ended = run("verify", folder)
    assert ended.exit_code == 0, ended.stdout + ended.stderr


def test_more_held_out_examples_judge_an_old_compare(run: Any, old: Callable[[str], Path]) -> None:
    folder = old("compare")
    before = trials(folder)
    words = again(folder)
    words[words.index("--max-eval") + 1] = "16"
    ended = run(*words)
    assert ended.exit_code == 0, ended.stderr
    assert "are trained again" in ended.stdout + ended.stderr
    after = trials(folder)
    assert after.keys() == before.keys()
    assert all(json.loads(record)["id"] == name for name, record in after.items())
    judged = [name for name, record in after.items() if json.loads(record).get("test_examples") == 16]
    assert {name.partition("_")[0] for name in judged} == {"lora-2", "full"}
    assert not (folder / "again").exists()


def test_lora_without_targets_is_another_spec_than_it_was(run: Any, old: Callable[[str], Path]) -> None:
    folder = old("compare")
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    ended = run(*(word.replace(":linear", "") for word in again(folder)))
    assert ended.exit_code == 2
    assert "['attention', 'mlp'] there, ['attention', 'mlp', 'unembedding'] now" in ended.stderr
    assert "what was lora:16 is lora:16:linear now" in ended.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_an_old_study_stays_one_of_linear_loras(run: Any, old: Callable[[str], Path]) -> None:
    folder = old("study")
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    ended = run(*again(folder)[:-2])
    assert ended.exit_code == 2
    assert "--targets linear" in ended.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_an_interrupted_compare_ends_as_the_uninterrupted_one(run: Any, old: Callable[[str], Path]) -> None:
    folder = old("interrupted")
    kept = {name: record for name, record in trials(folder).items() if json.loads(record)["status"] != "running"}
    ended = run(*(word for word in again(folder) if word != "-q"))
    assert ended.exit_code == 0, ended.stderr
    assert f"going on after {len(kept)} trials" in ended.stderr + ended.stdout
    assert kept.items() <= trials(folder).items()
    whole, found = loaded(OLD / "compare" / "verdict.json"), loaded(folder / "verdict.json")
    assert found["full"]["test_nll"] == pytest.approx(whole["full"]["test_nll"], rel=ELSEWHERE)
    assert found["lora"]["test_nll"] == pytest.approx(whole["lora"]["test_nll"], rel=ELSEWHERE)
    assert not (folder / "checkpoint.safetensors").exists()


def test_an_interrupted_training_ends_as_the_uninterrupted_one(run: Any, old: Callable[[str], Path]) -> None:
    folder, whole = old("train"), loaded(OLD / "train_uninterrupted.json")
    first_steps = (folder / "metrics.jsonl").read_text().splitlines()[:4]
    ended = run(*again(folder))
    assert ended.exit_code == 0, ended.stderr
    record = loaded(folder / "trial.json")
    assert (folder / "metrics.jsonl").read_text().splitlines()[:4] == first_steps
    assert (record["status"], record["steps"], record["tokens"]) == ("finished", 8, whole["tokens"])
    assert record["test_nll"] == pytest.approx(whole["test_nll"], rel=ELSEWHERE)


def test_a_finished_study_trains_nothing_and_is_ruled_by_todays_statements(
    run: Any, old: Callable[[str], Path]
) -> None:
    folder = old("study")
    done, before = trials(folder), loaded(folder / "claims.json")
    ended = run(*again(folder), "--workers", "1")
    assert ended.exit_code == 0, ended.stderr
    assert trials(folder) == done
    found = loaded(folder / "claims.json")
    assert found["trials"] == before["trials"]
    assert {claim["statement"]["key"] for claim in found["claims"]} == {"early-same", "early-grow"}
    assert all("holm" in claim for claim in found["claims"])
    ended = run("verify", folder)
    assert ended.exit_code == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["compare", "study"])
def test_old_folders_verify(run: Any, old: Callable[[str], Path], name: str) -> None:
    ended = run("verify", old(name))
    assert ended.exit_code == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["compare", "study", "rl"])
def test_old_folders_make_a_page(run: Any, old: Callable[[str], Path], name: str) -> None:
    folder = old(name)
    ended = run("report", folder)
    assert ended.exit_code == 0, ended.stderr
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.parametrize("table", ["trials", "curves", "claims"])
def test_old_studies_are_exported(run: Any, old: Callable[[str], Path], tmp_path: Path, table: str) -> None:
    ended = run("export", old("study"), "--out", tmp_path / "rows.csv", "--table", table)
    assert ended.exit_code == 0, ended.stderr
    assert len((tmp_path / "rows.csv").read_text().splitlines()) > 1


def test_an_old_reward_is_drawn_again(run: Any, old: Callable[[str], Path]) -> None:
    folder = old("rl")
    ended = run("eval", folder, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["reward"] == loaded(folder / "trial.json")["test_reward"]
