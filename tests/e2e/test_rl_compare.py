"""`lowregret compare --objective rl` and `lowregret study rl` as a user runs them, at toy size."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TASK = "--task builtin:arithmetic:difficulty=2,size=64,test_size=24".split()
COMPARE = (
    *"compare --model tiny --objective rl --methods lora:1,lora:4,full --max-tokens 24 --batch-size 4".split(),
    *"--group-size 4 --steps 2 --seeds 2 --learning-rates 1e-3,4e-3".split(),
    *TASK,
)
STUDY_TOML = """
kind = "rl"
ranks = [1, 4]
steps = 2
batch_size = 2
seeds = 1

[objective]
kind = "rl"
task = "builtin:arithmetic:difficulty=2,size=64,test_size=8"
group_size = 2
max_tokens = 24
"""


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(out.glob("trials/*/trial.json"))]


@pytest.fixture(scope="module")
def compared(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("compare") / "run"
    done = run(*COMPARE, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "held-out reward" in done.stdout
    assert "held-out loss" not in done.stdout
    assert "tolerance 0.02" in done.stdout, "a default that was filled in is printed"
    assert "prune none" in done.stdout
    return out


def test_loras_share_a_pack_and_all_are_judged_by_reward(compared: Path) -> None:
    found = records(compared)
    assert {(r["status"], r["test_nll"]) for r in found} == {("finished", None)}
    assert {r["pack_size"] for r in found if r["method"] == "full"} == {1}
    assert max(r["pack_size"] for r in found) >= 4
    verdict = json.loads((compared / "verdict.json").read_text())
    full = max(r["test_reward"] for r in found if r["method"] == "full" and r["seed"] == 0)
    assert verdict["full"]["best_learning_rate"] in {
        r["learning_rate"] for r in found if r["method"] == "full" and r["test_reward"] == full
    }
    assert verdict["regret_reward"] == pytest.approx(verdict["full"]["test_reward"] - verdict["lora"]["test_reward"])
    assert 0 < verdict["base_reward"] < 1
    assert (verdict["regret_nats"], verdict["base_nll"]) == (None, None)
    assert (compared / "best" / "lora").exists()
    assert (compared / "report.html").exists()


def test_it_verifies_and_a_changed_reward_does_not(compared: Path, run: Any) -> None:
    assert run("verify", compared).exit_code == 0
    path = next(compared.glob("trials/full*/examples.json"))
    before = path.read_text()
    content = json.loads(before)
    content["rewards"][0] = 1 - content["rewards"][0]
    try:
        path.write_text(json.dumps(content))
        done = run("verify", compared)
        assert done.exit_code == 1
        assert "test_reward" in done.stdout
    finally:
        path.write_text(before)


def test_killed_it_goes_on_to_the_same_verdict(start: Callable[..., Any], compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = (*COMPARE, "--checkpoint-seconds", 0, "--quiet", "--out", out)
    process = start(*command)
    while process.poll() is None and not list(out.glob("trials/*/examples.json")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again = start(*command)
    assert again.wait() == 0, again.stderr.read()
    for found, whole in zip(records(out), records(compared), strict=True):
        assert (found["id"], found["status"], found["test_reward"], found["tokens"]) == (
            whole["id"],
            whole["status"],
            whole["test_reward"],
            whole["tokens"],
        )


def test_the_study_judges_its_claims_and_verifies(run: Any, tmp_path: Path) -> None:
    recipe, out = tmp_path / "rl.toml", tmp_path / "study"
    recipe.write_text(STUDY_TOML)
    done = run("study", recipe, "--workers", 1, "--quiet", "--out", out)
    assert done.exit_code == 0, done.stderr
    judged = json.loads((out / "claims.json").read_text())["claims"]
    assert [claim["statement"]["key"] for claim in judged] == ["rl-rank-1", "rl-range"]
    assert {claim["ruling"] for claim in judged} == {"open"}, "one seed decides nothing"
    assert run("verify", out).exit_code == 0
