"""`lowregret compare`: the verdict's fields and evidence, the winners, the page, and starting again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

SMALL = "--model tiny --batch-size 4 --max-length 64 --evals 2 --data builtin:arithmetic:size=64".split()
METHOD_FIELDS = {
    "name", "best_learning_rate", "bracketed", "test_nll", "seeds", "trials", "tokens", "seconds", "peak_memory_bytes",
    "trainable_parameters",
}  # fmt: skip
VERDICT_FIELDS = {
    "verdict", "regret_nats", "regret_percent", "ci95", "tolerance_nats", "reasons", "recommendation", "methods",
    "lora", "full", "environment",
}  # fmt: skip


def verdict(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "verdict.json").read_text())
    return found


def trials(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in out.glob("trials/*/trial.json")]


def bracketed(records: list[dict[str, Any]], method: str, best: float) -> bool:
    """Whether worse search trials lie on both sides of a rate: the law of the verdict, from the records alone."""
    own = [record for record in records if record["method"] == method and record["seed"] == 0]
    losses = {record["learning_rate"]: record["test_nll"] if record["status"] == "finished" else None for record in own}
    worse = [rate for rate, loss in losses.items() if loss is None or loss > losses[best]]
    return min(worse, default=best) < best < max(worse, default=best)


def test_the_verdict_has_every_field(study: Path) -> None:
    found = verdict(study)
    assert found.keys() >= VERDICT_FIELDS
    assert found["verdict"] in ("low_regret", "regret", "inconclusive")
    assert [method["name"] for method in found["methods"]] == ["lora:4", "full"]
    for result in (*found["methods"], found["lora"], found["full"]):
        assert result.keys() >= METHOD_FIELDS
        assert result["seeds"] == 2
    assert found["recommendation"].keys() >= {"method", "rank", "learning_rate", "batch_size", "targets"}
    assert found["recommendation"]["batch_size"] == 4
    assert found["environment"]["torch"]
    assert all(isinstance(reason, str) and reason.endswith(".") for reason in found["reasons"])


def test_both_best_rates_are_bracketed_by_worse_trials(study: Path) -> None:
    for result in verdict(study)["methods"]:
        assert result["bracketed"] is True
        assert bracketed(trials(study), result["name"], result["best_learning_rate"])


def test_the_regret_is_that_of_the_records(study: Path) -> None:
    found = verdict(study)
    best = {method["name"]: method["best_learning_rate"] for method in found["methods"]}
    mean = {}
    for name, rate in best.items():
        own = [t["test_nll"] for t in trials(study) if t["method"] == name and t["learning_rate"] == rate]
        assert len(own) == 2
        mean[name] = sum(own) / 2
    bottom = {method["name"]: mean[method["name"]] - method["depth"] for method in found["methods"]}
    assert found["regret_nats"] == pytest.approx(bottom["lora:4"] - bottom["full"], abs=1e-9)
    assert found["learned"] == pytest.approx(found["base_nll"] - mean["full"])
    assert found["regret_learned"] == pytest.approx(found["regret_nats"] / found["learned"])
    assert found["tolerance_nats"] == pytest.approx(0.05 * found["learned"])
    low, high = found["ci95"]
    assert low <= found["regret_nats"] <= high
    expected = "low_regret" if high < found["tolerance_nats"] else "regret" if low > found["tolerance_nats"] else None
    assert found["verdict"] == (expected or "inconclusive")


def test_the_winners_are_loadable_by_peft_and_transformers_and_are_what_was_measured(run: Any, study: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from lowregret.models.load import resolve

    base = AutoModelForCausalLM.from_pretrained(resolve("tiny").path)
    size = base.num_parameters()  # before peft puts its own on it
    assert PeftModel.from_pretrained(base, str(study / "best" / "lora")).peft_config["default"].r == 4
    assert AutoModelForCausalLM.from_pretrained(study / "best" / "full").num_parameters() == size
    for kind, arguments in (
        ("lora", ("--model", "tiny", "--adapter", study / "best" / "lora")),
        ("full", ("--model", study / "best" / "full")),
    ):
        ended = run(
            "eval", *arguments, "--data", "builtin:arithmetic:size=64", "--max-eval", 12, "--max-length", 64, "--json"
        )
        winner = json.loads((study / "best" / kind / "trial.json").read_text())
        own = [t["test_nll"] for t in trials(study) if t["method"] == winner["method"] and t["status"] == "finished"]
        assert json.loads(ended.stdout)["nll"] == winner["test_nll"] == min(own)


def test_the_page_stands_alone(study: Path) -> None:
    page = (study / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "lora:4" in page
    for loads in ('src="http', "src='http", 'rel="stylesheet"', "@import"):
        assert loads not in page


def test_starting_again_on_a_finished_study_answers_at_once(run: Any, study: Path, study_arguments: list[str]) -> None:
    before = verdict(study)
    began = time.monotonic()
    ended = run("compare", *study_arguments, "--out", study, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == verdict(study)
    assert {**verdict(study), "environment": None} == {**before, "environment": None}
    assert "trial 1 of" not in ended.stderr
    trained = sum(record["seconds"] for record in trials(study))
    assert time.monotonic() - began < max(trained, 5)


def test_another_spec_is_refused_and_nothing_changes(
    run: Any, study: Path, study_arguments: list[str], snapshot: Any
) -> None:
    before = snapshot(study)
    for change, named in (
        (("--steps", 7), ("spec.steps: 6 there, 7 now",)),
        (("--seeds", 1), ("spec.seeds: 2 there, 1 now", "seeds can only grow")),
        (("--max-train", 31), ("spec.data.max_train: 32 there, 31 now", "train_data")),
    ):
        ended = run("compare", *study_arguments, *change, "--out", study)
        assert ended.exit_code == 2
        assert "trial 1 of" not in ended.stdout
        for words in (*named, "belongs to another spec", "Use another --out"):
            assert words in ended.stderr
        assert snapshot(study) == before


def test_checkpoint_seconds_may_change_because_no_number_depends_on_it(
    run: Any, study: Path, study_arguments: list[str]
) -> None:
    assert run("compare", *study_arguments, "--checkpoint-seconds", 5, "--out", study, "--quiet").exit_code == 0


def test_three_methods_one_diverging_rate_and_no_bracket(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = run("compare", *SMALL, "--methods", "full,lora:2,lora:8:mlp", "--learning-rates", "1e-5,2", "--seeds", 1,
                "--steps", 3, "--max-train", 12, "--max-eval", 6, "--out", out, "--json")  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found == verdict(out)
    assert found["verdict"] == "inconclusive"
    assert {method["name"]: method["bracketed"] for method in found["methods"]} == {
        "full": False, "lora:2": False, "lora:8:mlp": False,
    }  # fmt: skip
    assert any("is not bracketed: no worse result lies" in reason for reason in found["reasons"])
    records = trials(out)
    assert len(records) == 6
    diverged = [record for record in records if record["status"] == "diverged"]
    assert any(record["method"] == "full" for record in diverged)
    assert all(record["learning_rate"] == 2 and record["error"] for record in diverged)
    assert (out / "report.html").exists()


def test_what_is_said_without_a_terminal_is_plain_and_quiet_is_quiet(start: Any, tmp_path: Path) -> None:
    """In a process of its own: libraries write to the descriptors, past any redirection in Python."""
    study = [
        *SMALL,
        *"--methods lora:2,full --learning-rates 1e-4 --seeds 1 --steps 2 --max-train 8 --max-eval 4".split(),
    ]
    process = start("compare", *study, "--out", tmp_path / "out")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "\x1b" not in stdout + stderr
    assert "\r" not in stdout + stderr
    assert stderr == ""
    assert "trial 1 of about 2: lora:2, learning rate 0.0001, seed 0" in stdout
    assert f"report: {tmp_path / 'out' / 'report.html'}" in stdout
