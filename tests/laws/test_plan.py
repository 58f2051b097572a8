"""Every option of a plan is taken by the command line under its objective, and changes something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowregret.cli.plan import ASKS
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA, TrialSpec
from lowregret.spec.keys import keys
from lowregret.spec.plan import OF_DATA

SFT, RL = "qwen3-0.6b rows.jsonl", "qwen3-0.6b builtin:arithmetic:size=64 --objective rl"
BARE = "qwen3-0.6b --objective rl"
LONG_PROMPT = "--prompt-field long --completion-field completion"
LONG_ANSWER = "--completion-field long --prompt-field prompt"
ASKED: dict[str, tuple[tuple[str, str], ...]] = {
    "objective": ((SFT, "--objective rl"),),
    "method": ((SFT, "--method full"), (SFT, "--method full:bf16"), (RL, "--method lora:4")),
    "hardware": ((SFT, "--hardware H100"), (RL, "--hardware H100")),
    "devices": ((SFT, "--devices 4"), (RL, "--devices 4")),
    "parallel": ((f"{SFT} --devices 4", "--parallel tensor=4"), (f"{RL} --devices 4", "--parallel fsdp=4")),
    "price": ((f"{SFT} --hardware H100", "--price 9"), (f"{RL} --hardware H100", "--price 9")),
    "eval_data": ((SFT, "--eval-data held.jsonl"), ("qwen3-0.6b rows.jsonl --objective rl", "--eval-data held.jsonl")),
    "prompt_field": ((SFT, LONG_PROMPT), (f"{SFT} --objective rl", LONG_PROMPT)),
    "completion_field": ((SFT, LONG_ANSWER), (f"{SFT} --objective rl", LONG_ANSWER)),
    "max_length": ((SFT, "--max-length 16"), (RL, "--max-length 16"), (BARE, "--max-length 16")),
    "pilot": ((SFT, "--pilot pilot"),),
    "batch_size": ((SFT, "--batch-size 2"), (RL, "--batch-size 2"), (BARE, "--batch-size 2")),
    "epochs": ((SFT, "--epochs 5"), (RL, "--epochs 5")),
    "steps": ((SFT, "--steps 7"), (RL, "--steps 7"), (BARE, "--steps 7")),
    "learning_rate": ((SFT, "--learning-rate 5"), (RL, "--learning-rate 5"), (BARE, "--learning-rate 5")),
    "schedule": ((SFT, "--schedule linear"),),
    "micro_batch_size": ((SFT, "--micro-batch-size 1"), (RL, "--micro-batch-size 1")),
    "checkpoint_activations": ((SFT, "--checkpoint-activations"), (RL, "--checkpoint-activations")),
    "offload_activations": (
        (f"{SFT} {LONG_ANSWER}", "--offload-activations"),  # of short rows the held-out pass is the peak
        (RL, "--offload-activations"),
    ),
    "group_size": ((RL, "--group-size 4"), (BARE, "--group-size 4")),
    "max_tokens": ((RL, "--max-tokens 80"), (BARE, "--max-tokens 80")),
    "pass_rate": ((RL, "--pass-rate 0.1"),),
}
"""Field → commands and what is added to them; with each the plan must be another one."""


def _pilot(home: Path) -> None:
    """A finished run of six steps, two of them an epoch."""
    home.mkdir()
    spec = TrialSpec(method=LoRA(rank=4), learning_rate=1e-3)
    record = TrialRecord(
        id=spec.id, method="lora:4", learning_rate=1e-3, seed=0, status="finished", spec=spec, test_nll=0.25
    )
    write_json(home / "trial.json", record)
    for step in range(1, 7):
        metric = Metric(step=step, tokens=step, train_nll=2 / step, test_nll=1 / step, seconds=1.0)
        append_metric(home / "metrics.jsonl", metric)
    asked = {"model": "qwen3-0.6b", "batch_size": 8, "data": {"train": "rows.jsonl"}}
    (home / "spec.json").write_text(json.dumps({"spec": asked, "resolved": {"train_examples": 30}}))


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with rows that have a column more, held-out rows and a pilot."""
    lines = [
        json.dumps({"prompt": f"Say {n}", "completion": f"It is {n}", "long": f"A long one of {n} " * 20})
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    _pilot(tmp_path / "pilot")
    (tmp_path / "held.jsonl").write_text("\n".join(lines[:7]))
    monkeypatch.chdir(tmp_path)


def planned(run: Any, command: str) -> dict[str, Any]:
    done = run("plan", *command.split(), "--json")
    assert done.exit_code == 0, (command, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_option_of_a_plan_is_asked_for_here() -> None:
    assert {key.path for key in ASKS.flags()} == set(ASKED)
    assert {key.path for key in keys(ASKS.spec)} == set(ASKED)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("command", "option"),
    [pair for pairs in ASKED.values() for pair in pairs],
    ids=lambda text: text.replace(" ", "_"),
)
def test_every_option_of_a_plan_is_taken_and_changes_it(run: Any, command: str, option: str) -> None:
    assert planned(run, f"{command} {option}") != planned(run, command)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("name", OF_DATA)
def test_what_says_something_of_the_data_is_refused_without_them(run: Any, name: str) -> None:
    command, option = ASKED[name][-1]
    bare = [part for part in command.split() if part != "rows.jsonl" and not part.startswith("builtin:")]
    done = run("plan", *bare, *option.split())
    assert done.exit_code == 2
    assert any(f"{flag} needs data" in done.stderr for flag in option.split()[::2])


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("option", ["--group-size 8", "--max-tokens 128", "--pass-rate 0.5"])
def test_what_only_rewards_have_a_use_for_is_refused_without_them(run: Any, option: str) -> None:
    """Also where it is the default: what is asked for is never ignored."""
    done = run("plan", *SFT.split(), *option.split())
    assert done.exit_code == 2
    assert option.split()[0] in done.stderr
    assert "--objective rl" in done.stderr


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("option", ["--pilot .", "--measure"])
def test_what_only_losses_have_a_use_for_is_refused_with_rewards(run: Any, option: str) -> None:
    done = run("plan", *RL.split(), *option.split())
    assert done.exit_code == 2
    assert option.split()[0] in done.stderr
    assert "--objective sft" in done.stderr


def test_a_completion_that_the_base_has_no_room_for_is_refused_with_the_positions(run: Any) -> None:
    for source in ("tiny", "tiny builtin:arithmetic:size=64"):
        done = run("plan", *source.split(), "--objective", "rl", "--max-tokens", "512")
        assert done.exit_code == 2
        assert "--max-tokens 512" in done.stderr
        assert "512 positions" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--devices 4 --parallel fsdp=4,tensor=2", "--devices is 4. Use --devices 8, or --parallel fsdp=2,tensor=2."),
        ("--parallel fsdp=4", "--devices is 1. Use --devices 4"),
        ("--devices 16 --parallel tensor=16", "has 8 key/value heads, which so many devices do not divide."),
        ("--devices 16 --parallel tensor=16", "Use tensor=1, 2, 4 or 8."),
        ("--devices 3 --parallel tensor=3", "Use tensor=1, 2, 4 or 8."),
        ("--devices 2 --parallel expert=2", "has no experts. Leave expert out."),
        ("--devices 2 --parallel rows=2", "unknown dimension 'rows'. Valid: expert, fsdp, replicate, tensor."),
        ("--devices 0", "--devices 0: must be 1 or more"),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused_with_numbers_that_work(run: Any, options: str, words: str) -> None:
    done = run("plan", "qwen3-0.6b", *options.split())
    assert done.exit_code == 2
    assert words in done.stderr


def test_experts_are_shared_by_numbers_that_divide_them(run: Any) -> None:
    done = run("plan", "qwen3-30b-a3b", "--devices", "3", "--parallel", "expert=3")
    assert done.exit_code == 2
    assert "has 128 experts a layer, which so many devices do not divide. Use expert=1, 2, 4, 8, 16" in done.stderr
    assert run("plan", "qwen3-30b-a3b", "--devices", "4", "--parallel", "expert=4").exit_code == 0
