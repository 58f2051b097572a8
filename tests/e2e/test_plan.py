"""`lowregret plan` as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIGHT = """
import sys
from lowregret.cli.main import main

sys.argv = ["lowregret", "plan", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = ("torch", "transformers", "numpy", "scipy", "pandas", "datasets", "pyarrow")
print("imported:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
"""
PARTS = {"attention", "mlp", "experts", "unembedding"}


def light(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which says which heavy packages it has imported."""
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "arguments",
    [
        ("qwen3-8b",),
        ("qwen3-8b", "--json"),
        ("tiny", "builtin:arithmetic:size=64", "--markdown"),
        ("llama-3.1-8b", "builtin:arithmetic:size=64", "--hardware", "H100", "--method", "full"),
        ("--compare-models", "llama-3.2-1b", "qwen3-30b-a3b"),
        ("qwen3-8b", "builtin:arithmetic:size=64", "--objective", "rl", "--pass-rate", "0.2"),
    ],
)
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    done = light(*arguments)
    assert done.stderr.strip() == "imported:"
    assert done.stdout


def plan(run: Any, *arguments: object) -> Any:
    ended = run("plan", *arguments, "--json")
    assert ended.exit_code == 0, ended.stderr
    return json.loads(ended.stdout)


def test_the_json_has_what_was_promised(run: Any) -> None:
    found = plan(run, "qwen3-30b-a3b", "builtin:instructions:size=400", "--hardware", "H100")
    assert found["parameters"]["total"] > found["parameters"]["active"] > 0
    assert set(found["lora"]["by_target"]) >= PARTS
    assert sum(found["lora"]["by_target"].values()) == found["lora"]["parameters"]
    rate = found["learning_rate"]
    assert rate["low"] < rate["value"] < rate["high"]
    memory = found["memory_bytes"]
    assert {"weights", "gradients", "optimizer", "activations", "logits", "total"} <= set(memory)
    assert memory["total"] == sum(value for part, value in memory.items() if part != "total")
    for key in ("model", "method", "batch_size", "flops_per_token", "seconds", "capacity"):
        assert found[key], key
    assert {"method", "confidence", "reasons", "warnings"} <= set(found["advice"])


def test_what_was_asked_for_is_what_is_counted(run: Any) -> None:
    asked = ("--method", "lora:4:attention", "--batch-size", "3", "--steps", "50", "--max-length", "64")
    found = plan(run, "tiny", "builtin:arithmetic:size=64", *asked)
    assert (found["method"], found["batch_size"], found["steps"]) == ("lora:4:attention", 3, 50)
    assert found["lora"]["rank"] == 4
    assert found["lora"]["by_target"]["mlp"] == 0
    assert any("Attention only" in warning for warning in found["advice"]["warnings"])
    full = plan(run, "tiny", "builtin:arithmetic:size=64", "--method", "full")
    assert full["memory_bytes"]["optimizer"] > found["memory_bytes"]["optimizer"]
    assert full["flops_per_token"] > found["flops_per_token"]


def test_data_with_problems_are_planned_with_the_problems_listed(run: Any, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"Say {n}", "completion": f"{n}"}) for n in range(30)]
    rows[3:3] = ["{broken", '{"prompt": "x"}', '{"prompt": "x", "completion": ""}']
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(rows))
    found = plan(run, "tiny", source)
    assert [problem.split(": ")[0] for problem in found["data"]["problems"]] == [f"{source}:{n}" for n in (4, 5, 6)]
    assert found["data"]["examples"] + found["data"]["held_out"] == 30
    assert found["seconds"] is None or found["seconds"] > 0
    page = run("plan", "tiny", source).stdout
    assert "Problems in the data" in page
    assert "broken JSON" in page


@pytest.mark.parametrize("options", [(), ("--json",), ("--compare-models", "tiny")])
def test_a_file_without_a_usable_row_is_an_error_that_lists_the_faults(
    options: tuple[str, ...], run: Any, tmp_path: Path
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"prompt": "a", "completion": ""}\n{broken\n')
    done = run("plan", "qwen3-8b", source, *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"{source}: no usable row" in done.stderr
    assert "all 2 rows are bad; the first, line 1: field 'completion' is empty" in done.stderr
    assert "no data were given" not in done.stderr


SIMULATED = ("--study", "rank", "--cluster", "8xH100")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "missing MODEL"),
        (("rows.jsonl",), "missing MODEL"),
        (("qwen3-8",), "Did you mean"),
        (("qwen3-8b", "nowhere.jsonl"), "no such file"),
        (("qwen3-8b", "builtin:arithmetics"), "Did you mean 'arithmetic'?"),
        (("qwen3-8b", "builtin:arithmetic", "more.jsonl"), "one name too many"),
        (("qwen3-8b", "qwen3-4b", "llama-3.2-1b"), "--compare-models"),
        (("--compare-models", "qwen3-8b", "qwen3-0"), "Did you mean"),
        (("qwen3-8b", "--hardware", "H1000"), "Did you mean 'H100 NVL 94GB'?"),
        (("qwen3-8b", "--method", "lora"), "lora:RANK"),
        (("qwen3-8b", "--method", "lora:0"), "rank"),
        (("qwen3-8b", "--method", "lora:8:mpl"), "Did you mean 'mlp'?"),
        (("qwen3-8b", "--objective", "dpo"), "Valid: rl, sft"),
        (("qwen3-8b", "--batch-size", "0"), "--batch-size 0"),
        (("qwen3-8b", "--epochs", "1", "--steps", "5"), "not both"),
        (("qwen3-8b", "--learning-rate", "-1"), "above 0"),
        (("qwen3-8b", "--pass-rate", "0.5"), "--objective rl"),
        (("qwen3-8b", "--objective", "rl", "--pass-rate", "5"), "from 0 to 1"),
        (("qwen3-8b", "--price", "-2"), "--price -2"),
        (("qwen3-8b", "--measure"), "needs data"),
        (("tiny", "builtin:arithmetic", "--measure", "--max-length", "0"), "--max-length 0: must be 2 or more"),
        (("tiny", "builtin:arithmetic", "--measure", "--prompt-field", "x"), "name both or neither"),
        (("tiny", "builtin:arithmetic", "--measure", "--batch-size", "0"), "--batch-size 0: must be"),
        ((*SIMULATED, "--price", "nan"), "--price nan: must be from 0"),
        ((*SIMULATED, "--price", "-3"), "--price -3: must be from 0"),
        ((*SIMULATED, "--price", "inf"), "--price inf: must be from 0"),
        ((*SIMULATED, "--max-length", "0"), "--max-length: is of no use with --study"),
        (("qwen3-8b", "--eval-data", "x.jsonl"), "needs data"),
        (("qwen3-8b", "builtin:arithmetic", "--pilot", "nowhere"), "no such folder"),
        (("qwen3-8b", "--pilot", "nowhere"), "needs data"),
        (("qwen3-8b", "--json", "--markdown"), "choose one"),
        (("qwen3-8b", "--jsn"), "--json"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("plan", *arguments)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert words in ended.stderr, ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_other_verbs_spelling_of_model_and_data_is_understood(run: Any) -> None:
    data = "builtin:arithmetic:size=64"
    assert plan(run, "--model", "tiny", "--data", data) == plan(run, "tiny", data)


def test_models_side_by_side(run: Any) -> None:
    models = ("llama-3.2-1b", "qwen3-4b", "qwen3-30b-a3b")
    found = plan(run, "--compare-models", *models, "builtin:arithmetic:size=64")["models"]
    assert len(found) == 3
    assert all(model["data"]["source"] == "builtin:arithmetic:size=64" for model in found)
    table = run("plan", "--compare-models", *models, "--markdown").stdout
    assert table.splitlines()[0].count("|") == 5
    assert "Qwen3-30B-A3B" in table


def test_a_pipe_gets_plain_text_of_80_columns() -> None:
    done = light("qwen3-8b", "builtin:arithmetic:size=64")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("data", "regime"), [("builtin:biographies:size=16", "teach"), ("builtin:instructions:size=512", "elicit")]
)
def test_a_pilot_tells_the_regime(run: Any, tmp_path: Path, data: str, regime: str) -> None:
    """Facts that no base has met are taught; a new way to reply to tasks that `tiny` knows is elicited."""
    common = ("--model", "tiny", "--data", data, "--batch-size", "4", "--learning-rate", "2e-3")
    ended = run("train", *common, "--evals", "8", "--method", "lora:16", "--out", tmp_path / "short")
    assert ended.exit_code == 0, ended.stderr
    asked = plan(run, "tiny", data, "--pilot", tmp_path / "short")
    assert asked["capacity"]["regime"] == "unknown" or data.startswith("builtin:biographies")  # its bits are known
    if asked["capacity"]["regime"] == "unknown":
        (told,) = (line for line in asked["advice"]["would_change"] if "3 evaluations" in line)
        evals = re.search(r"--evals ([0-9,]+)", told)
        assert evals is not None
        common += ("--evals", evals[1])
    ended = run("train", *common, "--method", "lora:16", "--out", tmp_path / "pilot")
    assert ended.exit_code == 0, ended.stderr
    found = plan(run, "tiny", data, "--pilot", tmp_path / "pilot")["capacity"]
    assert found["regime"] == regime
    assert 0 < found["edl_bits"] < found["data_bits"]
    assert "EDL of lora:16" in found["source"]


def test_the_bases_own_loss_can_be_measured(run: Any) -> None:
    data = "builtin:arithmetic:size=64"
    prior = plan(run, "tiny", data)["capacity"]
    measured = plan(run, "tiny", data, "--measure")["capacity"]
    nll = json.loads(run("eval", "--model", "tiny", "--data", data, "--max-eval", "64", "--json").stdout)["nll"]
    assert prior["bits_per_token"] == 1
    assert measured["bits_per_token"] == pytest.approx(nll / 0.6931471805599453)
