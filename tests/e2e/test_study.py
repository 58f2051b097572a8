"""`lowregret study` on the bundled base, at toy size: it answers, extends, resumes, verifies and reports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import DataError
from lowregret.questions.registry import make_question
from lowregret.study.execute.choose import Place
from lowregret.study.suite import run_studies

TOY = "--steps 4 --seeds 2 --max-train 64 --max-eval 8 --batch-size 4".split()


@pytest.fixture(scope="module")
def early(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies") / "early"
    done = run("study", "early", *TOY, "--ranks", "1,4", "--workers", 1, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "At one learning rate" in done.stdout
    return out


def test_a_study_leaves_its_claims_and_a_page(early: Path) -> None:
    stated = json.loads((early / "study.json").read_text())["claims"]
    judged = json.loads((early / "claims.json").read_text())["claims"]
    assert [claim["statement"] for claim in judged] == stated
    page = (early / "report.html").read_text()
    assert page.index("Claims</h2>") < page.index("The first steps, by rank")


def test_a_study_verifies_and_a_changed_one_does_not(early: Path, run: Any) -> None:
    assert run("verify", early).exit_code == 0
    path = early / "claims.json"
    before = path.read_text()
    try:
        path.write_text(before.replace('"noise_nats": ', '"noise_nats": 1'))
        done = run("verify", early)
        assert done.exit_code == 1
        assert "DIFFERS: claims.json: noise_nats" in done.stdout
    finally:
        path.write_text(before)


def test_asking_for_more_repeats_nothing(early: Path, run: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in early.glob("groups/*/trials/*/examples.json")}
    done = run("study", "early", *TOY, "--ranks", "1,4,8", "--workers", 1, "--quiet", "--out", early)
    assert done.exit_code == 0, done.stderr
    after = {path: path.stat().st_mtime_ns for path in early.glob("groups/*/trials/*/examples.json")}
    assert len(before) == 4
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    other = run("study", "layers", "--out", early, "--quiet")
    assert other.exit_code == 2
    assert "belongs to the question 'early'" in other.stderr


def test_a_refused_question_leaves_a_study_as_it_was(early: Path, run: Any) -> None:
    before = (early / "study.json").read_bytes()
    other = run("study", "early", *TOY, "--steps", 5, "--ranks", "1,4", "--workers", 1, "--quiet", "--out", early)
    assert other.exit_code == 2
    assert "spec.steps: 4 there, 5 now" in other.stderr
    assert (early / "study.json").read_bytes() == before
    assert run("verify", early).exit_code == 0


def trials_of(study: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in study.glob("groups/*/trials/*/trial.json")}


def test_what_another_study_has_trained_is_taken_over(early: Path, run: Any, tmp_path: Path) -> None:
    """To the digit, its seconds included: nothing is trained again. What it lacks is."""
    asked = ["study", "early", *TOY, "--workers", 1, "--quiet"]
    ranks = json.loads((early / "study.json").read_text())["question"]["ranks"]  # another test asks for more
    alone = run(*asked, "--ranks", ",".join(map(str, ranks)), "--out", tmp_path / "same", "--take-from", early)
    assert alone.exit_code == 0, alone.stderr
    own, taken = trials_of(early), trials_of(tmp_path / "same")
    assert {name: own[name] | {"taken_from": record["taken_from"]} for name, record in taken.items()} == taken
    assert all(Path(record["taken_from"]).name == name for name, record in taken.items())
    claims = [json.loads((study / "claims.json").read_text())["claims"] for study in (tmp_path / "same", early)]
    assert claims[0] == claims[1]
    assert json.loads((tmp_path / "same" / "claims.json").read_text())["seconds"] == 0, "trained there, not here"
    assert run("verify", tmp_path / "same").exit_code == 0
    page = (tmp_path / "same" / "report.html").read_text()
    assert f"{len(taken)} were taken over from other runs" in page
    more = run(*asked, "--ranks", "4,2", "--out", tmp_path / "more", "--take-from", f"{early},{tmp_path / 'same'}")
    assert more.exit_code == 0, more.stderr
    found = {name: "taken_from" in record for name, record in trials_of(tmp_path / "more").items()}
    assert found == {name: name.startswith("lora-4") for name in found}
    assert len(found) == 4


@pytest.mark.parametrize("changed", [["--steps", 5], ["--batch-size", 2], ["--max-eval", 9], ["--max-train", 63]])
def test_nothing_is_taken_over_from_another_training(early: Path, run: Any, tmp_path: Path, changed: list[Any]) -> None:
    asked = ["study", "early", *TOY, *changed, "--ranks", "1,4", "--workers", 1]
    done = run(*asked, "--out", tmp_path / "other", "--take-from", early)
    assert done.exit_code == 0, done.stderr
    assert f"nothing is taken over from {early / 'groups' / 'main.lora'}: " in done.stdout
    assert not any("taken_from" in record for record in trials_of(tmp_path / "other").values())


def test_a_folder_without_trials_is_refused_before_anything_is_written(run: Any, tmp_path: Path) -> None:
    done = run("study", "early", *TOY, "--out", tmp_path / "new", "--take-from", tmp_path / "nothing")
    assert done.exit_code == 2
    assert f"{tmp_path / 'nothing'}: holds no trials" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_damaged_trial_is_trained_and_one_behind_a_link_too(early: Path, run: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(early, copy)
    curve = next(copy.glob("groups/*/trials/lora-4*/metrics.jsonl"))
    curve.write_text("".join(curve.read_text().splitlines(keepends=True)[:-1]))
    asked = ["study", "early", *TOY, "--ranks", "1,4", "--workers", 1, "--take-from", copy]
    done = run(*asked, "--out", tmp_path / "new")
    assert done.exit_code == 0, done.stderr
    assert f"{curve.parent}: is not taken over but trained: {curve}" in done.stdout
    own, found = trials_of(early), trials_of(tmp_path / "new")
    assert {name for name, record in found.items() if "taken_from" not in record} == {curve.parent.name}
    assert {name: record["test_nll"] for name, record in found.items()} == {n: own[n]["test_nll"] for n in found}
    secret = tmp_path / "secret"
    secret.write_text("mine")
    curve.unlink()
    curve.symlink_to(secret)
    done = run(*asked, "--out", tmp_path / "newer")
    assert done.exit_code == 0, done.stderr
    assert f"{curve}: a link leads out" in done.stdout
    assert not any(path.read_text() == "mine" for path in (tmp_path / "newer").rglob("*.jsonl"))


def test_every_base_is_looked_for_before_any_is_trained(run: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "bases.toml"
    recipe.write_text('kind = "scaling"\nmodels = ["tiny-32", "tiny-46"]\n')
    done = run("study", recipe, *TOY, "--ranks", 4, "--workers", 1, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "error: question 'scaling', field 'models': tiny-46: is no folder" in done.stderr
    assert "Did you mean 'tiny-64'?" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_compare_does_not_go_into_a_study(early: Path, run: Any) -> None:
    done = run("compare", "--model", "tiny", "--data", "builtin:arithmetic", "--out", early, "--quiet")
    assert done.exit_code == 2
    assert "belongs to `lowregret study`" in done.stderr
    assert not (early / "spec.json").exists()


def test_a_compare_verifies_too(study: Path, run: Any) -> None:
    done = run("verify", study)
    assert done.exit_code == 0, done.stdout
    assert "verdict: " in done.stdout


def test_what_is_finished_can_be_read_while_other_studies_are_not(run: Any, tmp_path: Path) -> None:
    """The second study cannot be trained; the first has its claims nevertheless, until it is asked for more."""
    toy = {"steps": 4, "seeds": 2, "batch_size": 4, "ranks": [1, 2]}
    data = {"train": "builtin:arithmetic", "max_train": 64, "max_eval": 8}
    lost = {"train": str(tmp_path / "lost.jsonl")}
    first, second = tmp_path / "all" / "early", tmp_path / "all" / "layers"
    studies = {
        first: make_question({"kind": "early", **toy, "data": data}),
        second: make_question({"kind": "layers", "data": lost}),
    }
    with pytest.raises(DataError, match="lost"):
        run_studies(studies, place=Place(workers=1), command="lowregret study all")
    assert (first / "claims.json").is_file()
    table = tmp_path / "trials.csv"
    for verb in (["report"], ["verify"], ["export", "--out", table]):
        done = run(*verb, tmp_path / "all")
        assert done.exit_code == 0, done.stderr
        assert done.stderr == (
            f"{second}: left out, because it is not finished. Run the same command again: lowregret study all\n"
        )
    assert len(table.read_text().splitlines()) == 1 + 4
    more = make_question({"kind": "early", **toy, "ranks": [1, 2, 4], "data": data})
    least = make_question({"kind": "layers", "steps": 1, "seeds": 1, "batch_size": 1, "data": lost})
    with pytest.raises(DataError, match="lost"):  # the study with least to train comes first
        run_studies({first: more, second: least}, place=Place(workers=1), command="lowregret study all")
    for verb in (["report"], ["verify"], ["export", "--out", table]):
        done = run(*verb, tmp_path / "all")
        assert done.exit_code == 2
        assert "early: is not finished" in done.stderr
        assert "layers: is not finished" in done.stderr


def test_studies_make_one_page(early: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("report", early.parent, "--out", tmp_path / "page", "--figures", tmp_path / "figures")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "page" / "report.html").is_file()
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".svg", ".png"}
