"""`lowregret train --objective rl` as a user runs it: it learns, survives bad reward functions and SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowregret.runs.atomic import read_record
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord

ARITHMETIC = (
    "train --model tiny --objective rl --task builtin:arithmetic:difficulty=2,size=256,test_size=40 --max-tokens 32 "
    "--method lora:1 --learning-rate 5e-3 --batch-size 8 --evals 2"
).split()

REWARD = """
import time

def reward(prompt, completion, row):
    if row["n"] % 3 == 0:
        raise KeyError("nothing to say")
    if row["n"] == 4:
        while True:
            pass
    if row["n"] == 5:
        return float("nan")
    return completion.count("1") / 10
"""


def metrics(out: Path) -> list[Metric]:
    return read_metrics(out / "metrics.jsonl")


def test_it_learns_and_leaves_its_records(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(*ARITHMETIC, "--steps", 8, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "held-out reward" in done.stdout
    assert json.loads((out / "spec.json").read_text())["spec"]["objective"]["estimator"] == "importance_sampling"
    record = read_record(TrialRecord, out / "trial.json")
    start, *curve = metrics(out)
    assert (start.step, [metric.step for metric in curve]) == (0, list(range(1, 9)))
    assert start.test_reward is not None
    assert record.test_reward is not None
    assert record.test_reward > start.test_reward + 0.1
    assert record.test_nll is None
    assert all(metric.rl is not None and (metric.rl.logprob_gap_max or 0) < 1e-4 for metric in curve)
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    transcripts = [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()]
    assert {line["step"] for line in transcripts} == {0, 6, 8}
    again = run(*ARITHMETIC, "--steps", 8, "--out", out)
    assert "already finished" in again.stdout


def test_a_reward_function_of_ones_own_may_fail_as_it_likes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_task.py").write_text(REWARD)
    rows = [{"prompt": f"Say {n} ones.", "n": n} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    done = run(
        *"train --model tiny --objective rl --task my_task:reward --data rows.jsonl --method lora:2 --steps 2".split(),
        *"--batch-size 5 --group-size 3 --max-tokens 12 --time-limit 0.5 --failure-reward -1 --out run".split(),
    )
    assert done.exit_code == 0, done.stderr
    assert "grading failed for" in done.stdout
    failures = [json.loads(line) for line in Path("run/failures.jsonl").read_text().splitlines()]
    assert {line["reward"] for line in failures} == {-1.0}
    reasons = {line["error"] for line in failures}
    assert {"raised KeyError: 'nothing to say'"} <= reasons
    nan = "my_task:reward returned nan: a reward is a finite number between -1e+06 and 1e+06"
    assert {"took longer than 0.5 s", nan} & reasons
    assert all(line["sample"] >= 1 for line in failures)
    # The file also has those of evaluations, whose steps are 0 and the ones after which they were made.
    assert 0 < sum(metric.rl.failures for metric in metrics(Path("run")) if metric.rl) <= len(failures)


BROKEN = """
def always(prompt, completion, row):
    raise ValueError("bad reward\\nof several lines")

def in_training(prompt, completion, row):
    return 1.0 if row["held_out"] else always(prompt, completion, row)

def same(prompt, completion, row):
    return 0.5
"""
TRAIN = "train --model tiny --objective rl --method lora:2 --learning-rate 1e-3 --steps 2 --batch-size 2 --group-size 2"


@pytest.mark.parametrize(
    ("function", "message", "steps"),
    [
        ("always", "could be graded; the first: raised ValueError: bad reward. ", []),
        ("in_training", "in step 1: task 'broken:in_training': none of 4 completions could be graded", [0]),
    ],
)
def test_a_reward_function_that_always_fails_ends_with_2(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, message: str, steps: list[int]
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    for name, held_out in (("rows", False), ("judge", True)):
        rows = [{"prompt": f"{name} {n}", "held_out": held_out} for n in range(4)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"--task broken:{function} --data rows.jsonl --eval-data judge.jsonl --max-tokens 4 --out run".split()
    done = run(*TRAIN.split(), *data)
    assert done.exit_code == 2
    assert message in done.stderr
    assert [metric.step for metric in metrics(Path("run"))] == steps
    if function == "always":
        asked = run(*"eval --model tiny --task broken:always --data rows.jsonl --max-tokens 4".split())
        assert asked.exit_code == 2
        assert message in asked.stderr


def test_equal_rewards_are_said_at_the_end(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(4)))
    data = "--task broken:same --data rows.jsonl --max-tokens 4 --out run".split()
    done = run(*TRAIN.split(), *data)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("the weights did not move: in none of 2 steps")
    assert read_record(TrialRecord, Path("run/trial.json")).note == done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--task builtin:arithmetic:dificulty=3", "Did you mean 'difficulty'"),
        ("--task gym:leg_countin", "Did you mean 'leg_counting'"),
        ("--task nowhere:reward --data rows.jsonl", "there is no nowhere.py or nowhere/__init__.py"),
        ("--task math --data nowhere.jsonl", "no such file"),
        ("--task builtin:arithmetic --max-tokens 600", "Use --max-tokens"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    done = run(*"train --model tiny --objective rl --steps 1 --out run".split(), *flags.split())
    assert done.exit_code == 2
    assert message in done.stderr


def test_killed_it_goes_on_to_the_same_numbers(start: Callable[..., Any], tmp_path: Path) -> None:
    def numbers(out: Path) -> Any:
        curve = [metric.model_dump(exclude={"seconds"}) for metric in metrics(out)]
        return curve, (out / "examples.json").read_bytes(), (out / "transcripts.jsonl").read_bytes()

    arguments = (*ARITHMETIC, "--steps", 5, "--checkpoint-seconds", 0, "--quiet")
    whole = start(*arguments, "--out", tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    out = tmp_path / "killed"
    process = start(*arguments, "--out", out)
    while process.poll() is None and (not (out / "metrics.jsonl").exists() or len(metrics(out)) < 3):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again = start(*arguments, "--out", out)
    assert again.wait() == 0, again.stderr.read()
    assert numbers(out) == numbers(tmp_path / "whole")


@pytest.mark.parametrize("method", ["lora:2", "full"])
def test_eval_repeats_the_last_held_out_reward(run: Any, tmp_path: Path, method: str) -> None:
    """From the run's folder; and with the same options written out, for an adapter."""
    out = tmp_path / "run"
    asked = [*ARITHMETIC, "--steps", 2, "--method", method, "--learning-rate", "1e-3", "--eval-samples", 2]
    done = run(*asked, "--out", out)
    assert done.exit_code == 0, done.stderr
    expected = metrics(out)[-1].test_reward
    found = run("eval", out, "--json")
    assert found.exit_code == 0, found.stderr
    numbers = json.loads(found.stdout)
    assert numbers["reward"] == expected
    assert (numbers["problems"], numbers["samples"]) == (40, 2)
    assert numbers["pass_rate_ci95"][0] < numbers["pass_rate"] < numbers["pass_rate_ci95"][1]
    if method != "full":
        task = ARITHMETIC[ARITHMETIC.index("--task") + 1]
        written = ["--model", "tiny", "--task", task, "--max-tokens", 32, "--eval-samples", 2]
        same = run("eval", *written, "--adapter", out / "adapter", "--json")
        assert json.loads(same.stdout) == numbers
        assert json.loads(run("eval", *written, "--json").stdout)["reward"] == metrics(out)[0].test_reward
        refused = run("eval", out, "--model", "tiny")
        assert refused.exit_code != 0
        assert "--model" in refused.stderr


CONFIG = """
model = "tiny"
steps = 1
batch_size = 2
evals = 1

[data]
train = "rows.jsonl"

[objective]
kind = "rl"
task = "mine:reward"
group_size = 2
max_tokens = 4
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as it comes from somebody else: a recipe, rows, and a module that leaves a trace when it is imported."""
    (tmp_path / "recipe.toml").write_text(CONFIG)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(4)))
    code = "from part import half\nprint('RAN', flush=True)\n\ndef reward(*given):\n    return half()\n"
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "part.py").write_text("def half():\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_from_somebody_else_runs_no_code(run: Any, theirs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = CONFIG.replace("evals = 1", 'evals = 1\nkind = "rl"\nranks = [1]')
    (theirs / "study.toml").write_text(study)
    for verb in ("train --config recipe.toml", "compare --config recipe.toml", "study study.toml"):
        done = run(*verb.split(), "--out", "run")
        assert done.exit_code == 2, verb
        assert "objective.task: 'mine:reward' is code" in done.stderr
        assert "--task mine:reward" in done.stderr
    assert not Path("run").exists()
    trust = CONFIG.replace('"mine:reward"', '"math"\ntrust_task = true')
    (theirs / "trust.toml").write_text(trust)
    done = run(*"train --config trust.toml --out run".split())
    assert done.exit_code == 2
    assert "objective.trust_task" in done.stderr
    assert "RAN" not in capfd.readouterr().err


def test_code_that_is_named_again_runs_and_is_known_again(
    run: Any, theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = "train --config recipe.toml --method lora:1 --out run --task mine:reward".split()
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("grading is confined: ") == 1
    assert "RAN" in capfd.readouterr().err
    assert list(json.loads(Path("run/manifest.json").read_text())["reward"]) == ["mine.py", "part.py"]
    assert "grading is confined: " in json.loads(Path("run/environment.json").read_text())["sessions"][0]["grading"]
    for reading in ("eval run", "report run --no-open", "verify run", "export run --out copy"):
        done = run(*reading.split())
        assert "RAN" not in capfd.readouterr().err, reading
        if reading == "eval run":
            assert done.exit_code == 2
            assert "--task mine:reward" in done.stderr
    assert run(*"eval run --task mine:reward".split()).exit_code == 0
    before = (theirs / "part.py").read_text()
    (theirs / "part.py").write_text(before.replace("0.5", "1"))
    done = run(*command)
    assert done.exit_code == 2
    assert "the reward's part.py changed since" in done.stderr
    done = run(*"eval run --task mine:reward".split())
    assert done.exit_code == 2
    assert "part.py changed since" in done.stderr
    (theirs / "part.py").write_text(before)
    assert "already finished" in run(*command).stdout


@pytest.mark.parametrize("value", ["float('inf')", "1e308", "'1'"])
def test_an_absurd_reward_is_the_functions_error_and_not_the_learning_rates(run: Any, theirs: Path, value: str) -> None:
    (theirs / "part.py").write_text(f"def half():\n    return {value}\n")
    done = run(*"train --config recipe.toml --method lora:1 --out run --task mine:reward".split())
    assert done.exit_code == 2
    assert "mine:reward returned" in done.stderr
    assert "Correct the reward function" in done.stderr
    assert "earning rate" not in done.stderr


def test_a_reward_that_wants_the_network_is_told_how(run: Any, theirs: Path) -> None:
    (theirs / "part.py").write_text("import socket\n\ndef half():\n    return socket.socket().close() or 0.5\n")
    command = "train --config recipe.toml --method lora:1 --out run --task mine:reward".split()
    done = run(*command)
    assert done.exit_code == 2
    assert "It is confined: " in done.stderr
    assert "say --trust-task" in done.stderr
    done = run(*command, "--trust-task", "--out", "trusted")
    assert done.exit_code == 0, done.stderr
    assert "grading is not confined: --trust-task" in done.stdout
