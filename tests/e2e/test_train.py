"""`lowregret train` and `lowregret eval`: what is left behind, and that both report the same number."""

from __future__ import annotations

import json
import math
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

SMALL = "--model tiny --batch-size 4 --max-length 64 --evals 2 --steps 4".split()
FIELDS = {
    "id", "method", "learning_rate", "seed", "status", "test_nll", "test_tokens", "steps", "tokens", "seconds",
    "peak_memory_bytes", "trainable_parameters", "error",
}  # fmt: skip


@pytest.mark.parametrize("method", ["lora:4", "lora:2:mlp+unembedding", "full"])
def test_eval_gives_the_very_number_that_training_reported(run: Any, rows: Path, tmp_path: Path, method: str) -> None:
    out, held_out = tmp_path / "out", rows / "held_out.jsonl"
    ended = run("train", *SMALL, "--method", method, "--learning-rate", "1e-3", "--data", rows / "rows.jsonl",
                "--eval-data", held_out, "--out", out)  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    record = json.loads((out / "trial.json").read_text())
    assert record.keys() >= FIELDS
    assert (record["status"], record["method"], record["steps"], record["error"]) == ("finished", method, 4, None)
    assert record["seconds"] > 0
    assert record["peak_memory_bytes"] > 0
    curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == [1, 2, 3, 4]
    assert curve[-1]["test_nll"] == record["test_nll"]
    assert all(line.keys() >= {"step", "tokens", "train_nll", "lr", "grad_norm", "seconds"} for line in curve)
    assert not list(out.rglob("checkpoint*")) + list(out.rglob("*.partial"))

    base = ("--model", out / "model") if method == "full" else ("--model", "tiny", "--adapter", out / "adapter")
    ended = run("eval", *base, "--data", held_out, "--max-length", "64", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == {"nll": record["test_nll"], "tokens": record["test_tokens"], "examples": 8}
    assert ended.stdout.count("\n") == 1


@pytest.mark.parametrize("method", ["lora:4", "full"])
def test_eval_of_a_run_repeats_the_split_that_its_training_made(
    run: Any, rows: Path, tmp_path: Path, method: str
) -> None:
    out, data = tmp_path / "out", tmp_path / "rows.jsonl"
    data.write_text((rows / "rows.jsonl").read_text())
    (tmp_path / "run.toml").write_text(f'[data]\ntrain = "{data}"\neval_fraction = 0.4\nsplit_seed = 3\nmax_eval = 5\n')
    asked = ("--config", tmp_path / "run.toml", "--method", method, "--learning-rate", "1e-3")
    ended = run("train", *SMALL, *asked, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    record = json.loads((out / "trial.json").read_text())
    ended = run("eval", out, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == {"nll": record["test_nll"], "tokens": record["test_tokens"], "examples": 5}
    assert json.loads(run("eval", out, "--max-eval", "2", "--json").stdout)["examples"] == 2

    others = rows / "held_out.jsonl"
    base = ("--model", out / "model") if method == "full" else ("--model", "tiny", "--adapter", out / "adapter")
    expected = run("eval", *base, "--data", others, "--max-length", "64", "--json").stdout
    assert json.loads(run("eval", out, "--data", others, "--json").stdout) == json.loads(expected)

    for options, words in (
        (("--model", "tiny"), "--model: "),
        (("--max-length", "8"), "or give --data too"),
        (("--task", "builtin:arithmetic"), "was trained on examples"),
    ):
        refused = run("eval", out, *options)
        assert refused.exit_code == 2
        assert words in refused.stderr
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-6]))
    refused = run("eval", out)
    assert refused.exit_code == 2
    assert "are not those that" in refused.stderr


@pytest.mark.parametrize("more", [(), ("--task", "builtin:arithmetic", "--max-tokens", "8")])
def test_a_missing_adapter_is_seen_before_the_data_are_read(run: Any, tmp_path: Path, more: tuple[str, ...]) -> None:
    data = () if more else ("--data", tmp_path / "nothing.jsonl")
    ended = run("eval", "--model", "tiny", "--adapter", tmp_path / "adaptor", *data, *more)
    assert ended.exit_code == 2
    assert "adapter_config.json: not found" in ended.stderr
    assert "nothing.jsonl" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--model", "tiny", "--data", "nowhere.jsonl", "--method", "lora:4", "--learning-rate", "1e-3"),
        ("train", "--model", "tini", "--data", "builtin:arithmetic", "--method", "lora:4", "--learning-rate", "1e-3"),
        ("compare", "--model", "tiny", "--data", "builtin:arithmetics"),
        ("compare", "--model", "./nowhere", "--data", "builtin:arithmetic"),
        ("study", "rank", "--data", "nowhere.jsonl"),
        ("study", "rank", "--model", "./nowhere"),
    ],
    ids=" ".join,
)
def test_no_folder_is_left_by_a_typo(run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = run(*arguments, "--out", tmp_path / "runs" / "one")
    assert ended.exit_code == 2, ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_file_format_and_naming_the_columns_give_the_same_training(run: Any, rows: Path, tmp_path: Path) -> None:
    found = {}
    for name, named in (("jsonl", False), ("jsonl", True), ("json", False), ("csv", True), ("parquet", False)):
        out = tmp_path / f"{name}{named}"
        columns = ("--prompt-field", "question", "--completion-field", "answer") if named else ()
        ended = run("train", *SMALL, "--method", "lora:2", "--learning-rate", "1e-3", "--data", rows / f"rows.{name}",
                    *columns, "--out", out)  # fmt: skip
        assert ended.exit_code == 0, ended.stderr
        assert "columns question -> answer" in ended.stdout
        assert "columns not used: id" in ended.stdout
        assert "held out by seed 0" in ended.stdout  # for want of --eval-data
        found[out.name] = json.loads((out / "trial.json").read_text())["test_nll"]
    assert len(set(found.values())) == 1, found


def test_builtin_data_are_judged_on_their_own_test_split(run: Any, tmp_path: Path) -> None:
    source = "builtin:arithmetic:size=64"
    ended = run("train", *SMALL, "--method", "lora:2", "--data", source, "--max-train", 16, "--max-eval", 8,
                "--out", tmp_path / "out")  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    record = json.loads((tmp_path / "out" / "trial.json").read_text())
    ended = run("eval", "--model", "tiny", "--adapter", tmp_path / "out" / "adapter", "--data", source,
                "--max-eval", 8, "--max-length", 64, "--json")  # fmt: skip
    assert json.loads(ended.stdout)["nll"] == record["test_nll"]


def test_a_finished_run_is_not_run_again(run: Any, rows: Path, tmp_path: Path, snapshot: Any) -> None:
    command = ("train", *SMALL, "--method", "lora:2", "--data", rows / "rows.jsonl", "--out", tmp_path / "out")
    first = run(*command)
    assert first.exit_code == 0, first.stderr
    before = snapshot(tmp_path / "out")
    again = run(*command)
    assert again.exit_code == 0
    assert "already finished" in again.stdout
    assert snapshot(tmp_path / "out") == before


def test_micro_batches_change_nothing_that_is_reported(run: Any, rows: Path, tmp_path: Path) -> None:
    losses = []
    for size in ("1", "4"):
        out = tmp_path / size
        run(
            "train",
            *SMALL,
            "--method",
            "lora:2",
            "--data",
            rows / "rows.jsonl",
            "--micro-batch-size",
            size,
            "--out",
            out,
        )
        losses.append(json.loads((out / "trial.json").read_text())["test_nll"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_diverged_training_is_recorded_and_ends_with_2(run: Any, rows: Path, tmp_path: Path) -> None:
    ended = run("train", *SMALL, "--method", "full", "--learning-rate", "999", "--weight-decay", "1e9",
                "--data", rows / "rows.jsonl", "--out", tmp_path / "out")  # fmt: skip
    assert ended.exit_code == 2
    assert "training diverged" in ended.stderr
    assert "loss is nan" in ended.stderr
    assert "Lower the learning rate" in ended.stderr
    record = json.loads((tmp_path / "out" / "trial.json").read_text())
    assert record["status"] == "diverged"
    assert "nan" in record["error"]
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count("\n") == record["steps"] > 0
    assert not (tmp_path / "out" / "model").exists()


def test_a_base_that_is_worse_than_guessing_at_first_is_trained_not_called_diverged(run: Any, tmp_path: Path) -> None:
    """What a base does with text it has never seen is no fault of the learning rate."""
    pairs = [{"prompt": f"q{n}", "completion": "?!" * 3 + chr(65 + n) * 6} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    out = tmp_path / "out"
    ended = run("train", *SMALL, "--method", "lora:2", "--learning-rate", "1e-5", "--data", "rows.jsonl", "--out", out)
    assert ended.exit_code == 0, ended.stderr
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train_nll"] > 2 * math.log(1024)  # else this tests nothing
    assert json.loads((out / "trial.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("verb", ["train", "compare"])
@pytest.mark.parametrize(("targets", "warned"), [("linear", True), ("all", False)])
def test_answers_in_tokens_that_the_base_never_writes_are_warned_of(
    run: Any, tmp_path: Path, verb: str, targets: str, warned: bool
) -> None:
    rows = [{"prompt": f"What is {n} + 1?", "completion": f"@@ {n + 1} @@"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    methods = ("--method", "lora:2") if verb == "train" else ("--methods", "lora:2,full", "--seeds", 1)
    rate = ("--learning-rate" if verb == "train" else "--learning-rates", 1e-3)
    ended = run(verb, "--model", "tiny", "--data", tmp_path / "rows.jsonl", "--max-eval", 2, "--steps", 1,
                *methods, *rate, "--targets", targets, "--out", tmp_path / "out")  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    said = ended.stdout.partition("step 1/1")[0]
    assert ("supervised tokens in" in said and "use lora:2." in said) is warned


def test_a_full_fine_tuning_by_a_named_template_is_taken_up_again(run: Any, tmp_path: Path) -> None:
    """The trained tokenizer has the one template that was chosen, and no names any more."""
    base = tmp_path / "base"
    shutil.copytree(str(resources.files("lowregret.models") / "bundled" / "tiny"), base)
    (base / "additional_chat_templates").mkdir()
    template = (base / "chat_template.jinja").read_text(encoding="utf-8")
    (base / "additional_chat_templates" / "terse.jinja").write_text(template.replace("user", "asks"), encoding="utf-8")
    data = "--data builtin:instructions:size=24 --max-eval 8 --chat-template terse".split()
    run_of_it = (*"--method full --learning-rate 1e-3".split(), *SMALL, "--model", base, *data)
    ended = run("train", *run_of_it, "--out", tmp_path / "out")
    assert ended.exit_code == 0, ended.stderr
    ended = run("eval", tmp_path / "out", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["nll"] == json.loads((tmp_path / "out" / "trial.json").read_text())["test_nll"]


def test_held_out_examples_may_be_many(run: Any, tmp_path: Path) -> None:
    """10,001: the records of a run are as long as what was asked for makes them."""
    for name, letter, count in (("rows", "q", 4), ("held_out", "a", 10_001)):
        rows = ({"prompt": f"{letter}{n}", "completion": "b"} for n in range(count))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "--model tiny-32 --data rows.jsonl --eval-data held_out.jsonl --batch-size 4 --max-length 32".split()
    trained = run("train", *words, *"--method lora:1 --steps 1 --evals 1 --replies 0 --out out".split())
    assert trained.exit_code == 0, trained.stderr
    assert len(json.loads((tmp_path / "out" / "examples.json").read_text())["tokens"]) == 10_001
