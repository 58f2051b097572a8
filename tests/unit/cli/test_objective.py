"""Flags and files of reinforcement learning → one objective."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lowregret.cli.specs import filled_in, make_spec
from lowregret.errors import SpecError
from lowregret.spec import RL, SFT, CompareSpec, TrainSpec

GIVEN: dict[str, Any] = {"model": "tiny", "objective": "rl", "task": "builtin:arithmetic"}
TOML = """
model = "tiny"

[data]
train = "rows.jsonl"

[objective]
kind = "rl"
task = "math"
group_size = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "run.toml"
    file.write_text(TOML)
    return file


def test_a_task_with_its_own_problems_needs_no_data() -> None:
    spec = make_spec(TrainSpec, None, {**GIVEN, "group_size": 16, "stop": ["\n\n", "Q:"]})
    assert spec.objective == RL(task="builtin:arithmetic", group_size=16, stop=("\n\n", "Q:"))
    assert spec.data.train == "builtin:arithmetic"
    shown = filled_in(spec)
    assert "objective.max_tokens 128" in shown
    assert "group_size" not in shown


def test_flags_win_over_the_file(config: Path) -> None:
    spec = make_spec(TrainSpec, config, {"task": "mine:reward", "kl": 0.1})
    assert spec.objective == RL(task="mine:reward", group_size=4, kl=0.1)
    assert spec.data.train == "rows.jsonl"
    assert make_spec(TrainSpec, config, {"objective": "sft"}).objective == SFT()


def test_without_a_word_it_is_supervised() -> None:
    assert make_spec(TrainSpec, None, {"model": "tiny", "data": "rows.jsonl"}).objective == SFT()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "tiny", "data": "rows.jsonl", "kl": 0.1}, "--kl is of use with --objective rl only"),
        ({**GIVEN, "objective": "sft"}, "--task is of use with --objective rl only"),
        ({"model": "tiny", "objective": "rl"}, "needs a --task"),
        ({"model": "tiny", "data": "rows.jsonl", "objective": "dpo"}, "unknown objective|sft"),
        ({**GIVEN, "task": "math"}, "missing --data"),
        ({**GIVEN, "data": "rows.jsonl"}, "brings its own problems"),
        ({**GIVEN, "eval_data": "rows.jsonl"}, "brings its own problems"),
        ({**GIVEN, "overlong": "cut"}, "are always dropped: use drop"),
        ({**GIVEN, "clip": 0.2}, "clip is of use with ppo_clip and cispo only"),
        ({**GIVEN, "estimator": "ppo_clip", "clip": 1.5}, "clip must be below 1"),
        ({**GIVEN, "estimator": "ppo"}, "importance_sampling"),
        ({**GIVEN, "group_size": 1}, "group_size"),
        ({**GIVEN, "temperature": 0.0}, "temperature"),
        ({**GIVEN, "stop": [""]}, "empty text"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_spec(TrainSpec, None, flags)


@pytest.mark.parametrize("task", ["mine:reward", "a.b:c", "rewards/mine.py:reward", "os:system", "cProfile:run"])
@pytest.mark.parametrize("kind", [TrainSpec, CompareSpec])
def test_code_is_named_on_the_command_line_or_not_run(config: Path, task: str, kind: Any) -> None:
    config.write_text(TOML.replace("math", task))
    for flags in ({}, {"task": None}, {"group_size": 8}, {"objective": "rl"}, {"trust_task": True}):
        with pytest.raises(SpecError, match=rf"objective\.task: '{re.escape(task)}' is code.*--task {re.escape(task)}"):
            make_spec(kind, config, flags)
    assert make_spec(kind, config, {"task": task}).objective == RL(task=task, group_size=4)
    assert make_spec(kind, config, {"task": "math"}).objective == RL(task="math", group_size=4)
    assert make_spec(kind, config, {"objective": "sft"}).objective == SFT()


def test_trust_is_said_on_the_command_line_or_not_given(config: Path) -> None:
    config.write_text(TOML + "trust_task = true\n")
    with pytest.raises(SpecError, match=r"objective\.trust_task: .*--trust-task"):
        make_spec(TrainSpec, config, {"task": "mine:reward"})
    assert make_spec(TrainSpec, config, {"trust_task": True}).objective == RL(
        task="math", group_size=4, trust_task=True
    )


def test_an_older_record_says_the_same_without_trust() -> None:
    assert "trust_task" not in RL(task="math").model_dump(mode="json")
