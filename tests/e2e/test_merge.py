"""`lowregret merge` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def adapter(bases: ModuleType, tmp_path: Path) -> Path:
    """A LoRA on `tiny` that does something, with the tied unembedding."""
    from lowregret.engine import Engine
    from lowregret.export.peft import export_policy
    from lowregret.models.load import load_base, resolve
    from lowregret.spec import LoRA

    engine = Engine(load_base(resolve("tiny")), precision="float32")
    bases.stir(engine.add_policy("lora", LoRA(rank=4, alpha=2, targets=("attention", "unembedding"))))
    export_policy(engine, "lora", tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_merged_folder_has_the_adapters_loss(run: Run, rows: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    done = run("merge", "--adapter", adapter, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["written"] == str(out)
    assert found["dtype"] == "float32"
    assert found["bytes"] == pytest.approx((out / "model.safetensors").stat().st_size, rel=0.01)
    data = ("--data", rows / "held_out.jsonl", "--max-length", 64, "--json")
    losses = [
        json.loads(run("eval", *which, *data).stdout)["nll"]
        for which in (("--model", "tiny", "--adapter", adapter), ("--model", out), ("--model", "tiny"))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert abs(losses[0] - losses[2]) > 0.01


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "--adapter: is missing"),
        (("--adapter", "{adapter}", "--dtype", "int8"), "Valid: bfloat16, float16, float32"),
        (("--adapter", "{adapter}", "--shard-size", "0"), "--shard-size 0"),
        (("--adapter", "{adapter}:nan"), "nan is no share"),
        (("--adapter", "nowhere"), "nowhere holds no adapter_config.json"),
        (("--adapter", "{adapter}", "--model", "tiny-64"), "this base needs"),
    ],
    ids=str,
)
def test_bad_input(run: Run, adapter: Path, arguments: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    there = set(tmp_path.iterdir())
    asked = [word.replace("{adapter}", str(adapter)) for word in arguments]
    done = run("merge", *asked, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert problem in done.stderr
    assert set(tmp_path.iterdir()) == there


def test_shares_and_shards(run: Run, adapter: Path, tmp_path: Path) -> None:
    """Half and half of one adapter is that adapter."""
    import safetensors.torch
    import torch

    assert run("merge", "--adapter", adapter, "--out", tmp_path / "one").exit_code == 0
    halves = ("--adapter", f"{adapter}:0.5", "--adapter", f"{adapter}:0.5")
    done = run("merge", *halves, "--out", tmp_path / "two", "--shard-size", "0.001")
    assert done.exit_code == 0, done.stderr
    assert "0.5 · " in done.stdout
    one = safetensors.torch.load_file(tmp_path / "one" / "model.safetensors")
    two: dict[str, Any] = {}
    for file in (tmp_path / "two").glob("*.safetensors"):
        two |= safetensors.torch.load_file(file)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
