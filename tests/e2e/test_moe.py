"""A mixture of experts through the command line: planned, trained by loss and by reward, and shipped in two formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lowregret.engine import Engine
from lowregret.export.peft import load_adapter
from lowregret.models.load import load_base, resolve
from lowregret.runs.metrics import read_metrics

SMALL = "--model tiny-moe --batch-size 4 --max-length 64 --evals 1 --steps 4".split()
ARITHMETIC = "--data builtin:arithmetic:size=32 --max-train 16 --max-eval 8".split()


@pytest.fixture(scope="module")
def trained(run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(a run's folder, what it said) of a LoRA on attention and experts."""
    out = tmp_path_factory.mktemp("moe") / "run"
    done = run("train", *SMALL, *ARITHMETIC, "--method", "lora:4", "--learning-rate", 1e-3, "--out", out)
    assert done.exit_code == 0, done.stderr
    return out, done.stdout


def sums(folder: Path) -> dict[str, torch.Tensor]:
    """scale · B·A of every matrix of an adapter, of every expert."""
    engine = Engine(load_base(resolve("tiny-moe")), precision="float32")
    policy = load_adapter(engine, "adapter", folder)
    return {name: adapter.delta() for name, adapter in policy.adapters.items()}


def test_an_adapter_goes_to_both_formats_and_back(run: Any, trained: tuple[Path, str], tmp_path: Path) -> None:
    adapter = trained[0] / "adapter"
    done = run("export", adapter, "--each-expert", "--out", tmp_path / "each")
    assert done.exit_code == 0, done.stderr
    keys = safetensors.torch.load_file(tmp_path / "each" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.{}.mlp.experts.{}.{}_proj.lora_A.weight"
    wanted = {name.format(layer, expert, role) for layer in range(4) for expert in range(8) for role in _ROLES}
    assert wanted == {key for key in keys if ".experts." in key and "lora_A" in key}
    assert {len(keys[key]) for key in wanted} == {4}, "all of the method's rank, so that no patterns are needed"
    config = json.loads((tmp_path / "each" / "adapter_config.json").read_text())
    assert not config.get("target_parameters")
    assert not config.get("rank_pattern")
    assert set(_ROLES) <= {target.removesuffix("_proj") for target in config["target_modules"]}
    done = run("export", tmp_path / "each", "--out", tmp_path / "back")
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "back" / "adapter_config.json").read_text())["target_parameters"]
    first, each, back = (sums(folder) for folder in (adapter, tmp_path / "each", tmp_path / "back"))
    assert any(bool(delta.any()) for name, delta in first.items() if "experts" in name), "it has learned something"
    for other in (each, back):
        assert other.keys() == first.keys()
        for name, delta in first.items():
            torch.testing.assert_close(other[name], delta, rtol=1e-5, atol=1e-8)


_ROLES = ("gate", "up", "down")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ADAPTER", "--table", "curves", "--out", "new"), "--table: is of use with studies only"),
        (("ADAPTER", "study", "--out", "new"), "is exported alone"),
        (("ADAPTER", "--out", "ADAPTER"), "is there already"),
        (("study", "--each-expert", "--out", "t.csv"), "--each-expert: is of use with an adapter only"),
        (("ADAPTER", "--model", "tiny", "--out", "new"), "this base does not have"),
    ],
)
def test_what_does_not_go_together_is_refused(
    run: Any, trained: tuple[Path, str], arguments: tuple[str, ...], words: str
) -> None:
    adapter = trained[0] / "adapter"
    before = (adapter / "adapter_model.safetensors").read_bytes()
    done = run("export", *(str(adapter) if argument == "ADAPTER" else argument for argument in arguments))
    assert done.exit_code == 2
    assert words in done.stderr
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    assert not Path("new").exists()


def test_each_expert_of_an_adapter_without_is_refused(run: Any, tmp_path: Path) -> None:
    arguments = (*SMALL, *ARITHMETIC, "--method", "lora:2:attention", "--learning-rate", 1e-3)
    assert run("train", *arguments, "--out", tmp_path / "run").exit_code == 0
    done = run("export", tmp_path / "run" / "adapter", "--each-expert", "--out", tmp_path / "new")
    assert done.exit_code == 2
    assert "adapts no experts" in done.stderr


def test_the_user_sees_which_experts_trained(trained: tuple[Path, str]) -> None:
    out, said = trained
    use = json.loads((out / "experts.json").read_text())
    assert len(use) == 4
    assert "experts: " in said
    idle = {name: found["untrained"] for name, found in use.items() if found["untrained"]}
    assert ("all 8 of each of 4 layers" in said) == (not idle)
    for name in idle:
        assert name in said


def test_a_mixture_is_planned(run: Any) -> None:
    done = run("plan", "tiny-moe", "--method", "lora:16", "--json")
    assert done.exit_code == 0, done.stderr
    assert 4096 * 16 + 30720 * 8 + (1024 + 128) * 16 == 329_728
    assert "329728" in done.stdout.replace(",", "")


def test_a_mixture_is_compared(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "study"
    done = run("compare", *SMALL, *ARITHMETIC, "--methods", "lora:4,full", "--learning-rates", "1e-3,3e-3", "--seeds", 1, "--out", out)  # fmt: skip # noqa: E501
    assert done.exit_code == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("experts: ")]
    assert said
    assert len(set(said)) == len(said)
    methods = json.loads((out / "verdict.json").read_text())["methods"]
    assert {method["name"]: method["trainable_parameters"] for method in methods} == {
        "lora:4": 4096 * 4 + 30720 * 2 + (1024 + 128) * 4,
        "full": 2_758_016,
    }


def test_a_mixture_learns_from_rewards(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(
        *"train --model tiny-moe --objective rl --task builtin:arithmetic:difficulty=2,size=32,test_size=8".split(),
        *"--max-tokens 32 --method lora:4 --learning-rate 2e-3 --batch-size 4 --evals 1 --steps 2".split(),
        "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    steps = [metric for metric in read_metrics(out / "metrics.jsonl") if metric.step]
    assert [metric.step for metric in steps] == [1, 2]
    assert all(metric.rl is not None and (metric.rl.logprob_gap_max or 0) < 1e-4 for metric in steps)
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert "experts: " in done.stdout
