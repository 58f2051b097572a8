"""A compare's folder asked for more: only what is missing is trained, and it ends as if all had been asked at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

BASE = "--model tiny --data builtin:arithmetic:size=64 --steps 4 --batch-size 4 --max-length 64 --max-train 24".split()
RATES = ["--learning-rates", "3e-4,1e-3,3e-3", "--prune", "off"]
START = [*BASE, *RATES, "--max-eval", "10", "--methods", "lora:2,full", "--seeds", "2", "--replies", "0"]


def asking(arguments: list[str], **changes: object) -> list[str]:
    """The same arguments with other values of some flags, by their names."""
    found = list(arguments)
    for name, value in changes.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in found:
            found[found.index(flag) + 1] = str(value)
        else:
            found += [flag, str(value)]
    return found


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


def trials(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("trials/*/trial.json"))}


@pytest.fixture(scope="module")
def started(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished compare; tests work in copies."""
    out = tmp_path_factory.mktemp("started") / "out"
    ended = run("compare", *START, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    return out


@pytest.fixture
def folder(started: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(started, tmp_path / "out"))


def extend(run: Any, folder: Path, **changes: object) -> Any:
    ended = run("compare", *asking(START, **changes), "--out", folder)
    assert ended.exit_code == 0, ended.stderr
    return ended


def numbers(kill_resume: Any, out: Path) -> dict[str, Any]:
    """What must repeat, without spec.json, whose history tells how it came about."""
    found: dict[str, Any] = kill_resume.numbers(out)
    found.pop("spec.json")
    return found


def close(one: Any, other: Any) -> bool:
    """Equal but for the rounding of packs of another size."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-3, abs=1e-5)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize(
    "changes",
    [{"seeds": 3}, {"methods": "lora:2,full,lora:4"}, {"learning_rates": "1e-4,3e-4,1e-3,3e-3"}],
    ids=["seeds", "methods", "rates"],
)
def test_it_trains_what_is_missing_and_ends_as_if_all_had_been_asked_at_once(
    run: Any, folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    before = trials(folder)
    extend(run, folder, **changes)
    after = trials(folder)
    assert before.items() <= after.items()
    assert len(after) > len(before)
    whole = tmp_path / "whole"
    assert run("compare", *asking(START, **changes), "--out", whole).exit_code == 0
    assert trials(whole).keys() == after.keys()
    for name in after:
        one, other = (loaded(home / "trials" / name / "trial.json") for home in (folder, whole))
        assert close(one["test_nll"], other["test_nll"])
        assert (one["status"], one["steps"], one["tokens"]) == (other["status"], other["steps"], other["tokens"])
        if one["method"] == "full":  # alone in either case
            assert one["test_nll"] == other["test_nll"]
    one, other = (loaded(home / "verdict.json") for home in (folder, whole))
    assert one["verdict"] == other["verdict"]
    assert close(one["regret_nats"], other["regret_nats"])
    (entry,) = loaded(folder / "spec.json")["extended"]
    assert list(entry["changed"]) == list(changes)
    assert entry["when"]
    assert run("verify", folder).exit_code == 0
    assert run("report", folder).exit_code == 0


def test_seeds_asked_for_later_are_those_asked_for_at_once_to_the_bit(
    run: Any, folder: Path, tmp_path: Path, kill_resume: Any
) -> None:
    """One LoRA trial at a time in either case, so that packs round alike."""
    alone = {"memory_gb": "1e-6"}
    one, whole = tmp_path / "one", tmp_path / "whole"
    assert run("compare", *asking(START, **alone), "--out", one).exit_code == 0
    assert run("compare", *asking(START, **alone, seeds=3), "--out", one).exit_code == 0
    assert run("compare", *asking(START, **alone, seeds=3), "--out", whole).exit_code == 0
    assert numbers(kill_resume, one) == numbers(kill_resume, whole)


def test_more_held_out_examples_train_nothing_of_a_lora(run: Any, folder: Path) -> None:
    before = {name: json.loads(record) for name, record in trials(folder).items()}
    best = {result["name"]: result["best_learning_rate"] for result in loaded(folder / "verdict.json")["methods"]}
    curves = {name: (folder / "trials" / name / "metrics.jsonl").read_bytes() for name in before}
    ended = extend(run, folder, max_eval=30)
    assert "3 trials are evaluated again, 1 whose weights are not kept are trained again" in ended.stdout + ended.stderr
    judged = 0
    for name, record in ((name, json.loads(record)) for name, record in trials(folder).items()):
        if record["learning_rate"] != best[record["method"]]:
            assert record == before[name]
            continue
        judged += 1
        examples = loaded(folder / "trials" / name / "examples.json")
        assert record["test_examples"] == len(examples["tokens"]) == 30
        assert record["search_nll"] == pytest.approx(before[name]["test_nll"], rel=1e-6)
        assert record["test_nll"] == pytest.approx(sum(examples["nll_sums"]) / sum(examples["tokens"]))
        assert sum(examples["nll_sums"][:10]) / sum(examples["tokens"][:10]) == pytest.approx(
            before[name]["test_nll"], rel=1e-4, abs=1e-7
        )
        if record["method"] == "lora:2":
            assert (folder / "trials" / name / "metrics.jsonl").read_bytes() == curves[name]
            assert record["seconds"] == before[name]["seconds"]
    assert judged == 4
    assert loaded(folder / "base.json")["search_nll"] != loaded(folder / "base.json")["test_nll"]
    assert not (folder / "again").exists()
    assert run("verify", folder).exit_code == 0
    winner = loaded(folder / "best" / "lora" / "trial.json")
    assert winner["test_examples"] == 30


def test_an_extension_may_be_extended_and_nothing_new_trains_nothing(run: Any, folder: Path, snapshot: Any) -> None:
    extend(run, folder, max_eval=20)
    extend(run, folder, max_eval=24, seeds=3, learning_rates="3e-4,1e-3,3e-3,6e-3")
    records = [json.loads(record) for record in trials(folder).values()]
    best = {result["name"]: result["best_learning_rate"] for result in loaded(folder / "verdict.json")["methods"]}
    for record in records:
        if record["learning_rate"] == best[record["method"]]:
            assert record["test_examples"] == 24
        if record["learning_rate"] == 6e-3 and record["status"] == "finished":
            assert record["search_nll"] is not None  # compared with the others on the first 10
    assert loaded(folder / "spec.json")["resolved"]["search_examples"] == 10
    assert len(loaded(folder / "spec.json")["extended"]) == 2
    before = {name: data for name, data in snapshot(folder).items() if name != "environment.json"}
    extend(run, folder, max_eval=24, seeds=3, learning_rates="3e-4,1e-3,3e-3,6e-3")
    after = {name: data for name, data in snapshot(folder).items() if name != "environment.json"}
    assert {name for name in before if before[name] != after[name]} <= {"verdict.json", "report.html"}


def test_what_was_trained_again_for_fewer_examples_is_trained_again(run: Any, folder: Path) -> None:
    """A kill leaves a trial of the first extension in `again`, and the second one asks for more examples."""
    records = {name: json.loads(record) for name, record in trials(folder).items()}
    full = [name for name, record in records.items() if record["method"] == "full" and record["status"] == "finished"]
    for name in full:
        shutil.copytree(folder / "trials" / name, folder / "again" / "trials" / name)
    extend(run, folder, max_eval=20)
    counts = [loaded(folder / "trials" / name / "trial.json")["test_examples"] for name in full]
    assert sorted(set(counts)) == [10, 20]
    assert not (folder / "again").exists()
    assert run("verify", folder).exit_code == 0


def test_the_tolerance_changes_the_judging_alone(run: Any, folder: Path) -> None:
    before = trials(folder)
    extend(run, folder, tolerance="0.9")
    assert trials(folder) == before
    assert loaded(folder / "spec.json")["spec"]["tolerance"] == 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 1}, ("spec.seeds: 2 there, 1 now", "seeds can only grow")),
        ({"max_eval": 8}, ("spec.data.max_eval: 10 there, 8 now", "held-out examples can only grow")),
        ({"methods": "lora:4,full"}, ("spec.methods", "name those of the folder too")),
        ({"learning_rates": "3e-4,1e-3"}, ("spec.learning_rates", "can only be made longer")),
        ({"learning_rates": "auto"}, ("spec.learning_rates", "cannot follow each other")),
        ({"prune": "0.5"}, ("spec.prune: None there, 0.5 now",)),
        ({"seeds": 3, "steps": 5}, ("spec.steps: 4 there, 5 now",)),
        ({"seeds": 3, "max_eval": 20, "max_length": 40}, ("spec.data.max_length: 64 there, 40 now",)),
    ],
)
def test_what_is_no_extension_is_refused_and_nothing_changes(
    run: Any, started: Path, snapshot: Any, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    before = snapshot(started)
    ended = run("compare", *asking(START, **changes), "--out", started)
    assert ended.exit_code == 2
    for word in (*words, "belongs to another spec", "Use another --out"):
        assert word in ended.stderr
    assert snapshot(started) == before


def test_killed_in_an_extension_it_goes_on_to_the_same_numbers(folder: Path, tmp_path: Path, kill_resume: Any) -> None:
    more = ["compare", *asking(START, seeds=3, max_eval=30), "--checkpoint-seconds", "0"]
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    life = kill_resume.finish(whole, more)
    kills = [kill_resume.kill_at(folder, life * part, more) for part in (0.55, 0.75)]
    assert any(kills)
    kill_resume.finish(folder, more)
    assert numbers(kill_resume, folder) == numbers(kill_resume, whole)


def test_the_number_of_held_out_examples_is_chosen_recorded_and_may_grow(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = [*BASE, *RATES, "--methods", "lora:2,full", "--seeds", "1"]
    ended = run("compare", *asked, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    assert "judged by 8 of 256 held-out examples, after step 4" in ended.stdout + ended.stderr
    assert "--max-eval takes another number" in ended.stdout + ended.stderr
    resolved = loaded(out / "spec.json")["resolved"]
    assert (resolved["test_examples"], resolved["held_out"], resolved["evals"]) == (8, 256, [4])
    again = run("compare", *asked, "--out", out)
    assert again.exit_code == 0, again.stderr
    assert loaded(out / "spec.json")["resolved"] == resolved
    fewer = run("compare", *asked, "--max-eval", 7, "--out", out)
    assert fewer.exit_code == 2
    more = run("compare", *asked, "--max-eval", 16, "--out", out)
    assert more.exit_code == 0, more.stderr
    resolved = loaded(out / "spec.json")["resolved"]
    assert (resolved["test_examples"], resolved["search_examples"], resolved["evals"]) == (16, 8, [4])
    assert run("compare", *asked, "--out", out).exit_code == 2
