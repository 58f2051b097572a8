"""`lowregret merge`: what training left, as a whole model; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

SMALL = "--batch-size 4 --max-length 64 --evals 1 --steps 4 --learning-rate 3e-3".split()
HELD_OUT = "--data builtin:arithmetic:size=32 --max-eval 8".split()
DATA = [*HELD_OUT, "--max-train", "16"]


def loss(run: Any, *arguments: object) -> float:
    done = run("eval", *arguments, *HELD_OUT, "--max-length", 64, "--json")
    assert done.exit_code == 0, done.stderr
    return float(json.loads(done.stdout)["nll"])


@pytest.fixture(scope="module")
def trained(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two methods on `tiny`, and of a LoRA on `tiny-moe`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model, method in (
        ("lora", "tiny", "lora:4"),
        ("dora", "tiny", "lora:4:dora:attention"),
        ("full", "tiny", "full"),
        ("moe", "tiny-moe", "lora:4"),
    ):
        done = run("train", "--model", model, *SMALL, *DATA, "--method", method, "--out", folder / name)
        assert done.exit_code == 0, done.stderr
    return folder


@pytest.mark.parametrize(("name", "model"), [("lora", "tiny"), ("dora", "tiny"), ("moe", "tiny-moe")])
def test_a_merged_run_has_the_adapters_loss(run: Any, trained: Path, name: str, model: str, tmp_path: Path) -> None:
    done = run("merge", "--adapter", trained / name, "--out", tmp_path / "out", "--dtype", "float32")
    assert done.exit_code == 0, done.stderr
    assert "as merged\n" in done.stdout
    assert "MB, float32; read by transformers" in done.stdout
    merged = loss(run, "--model", tmp_path / "out")
    assert merged == pytest.approx(loss(run, "--model", model, "--adapter", trained / name / "adapter"), abs=1e-5)
    assert abs(loss(run, "--model", model) - merged) > 1e-3, "the adapter does nothing"


def test_shares_and_json(run: Any, trained: Path, tmp_path: Path) -> None:
    arguments = ("--adapter", f"{trained / 'lora'}:0.5", "--adapter", f"{trained / 'lora' / 'adapter'}:0.5")
    done = run("merge", "--model", "tiny", *arguments, "--out", tmp_path / "out", "--dtype", "bfloat16", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    proof = said["proof"]
    assert (proof["precision"], list(proof["files"]), proof["holds"]) == ("bfloat16", ["model.safetensors"], True)
    assert 0 < proof["updates_lost"] < 1
    run("merge", "--adapter", trained / "lora", "--out", tmp_path / "whole", "--dtype", "bfloat16")
    half, whole = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert half.keys() == whole.keys()
    for key, tensor in whole.items():
        torch.testing.assert_close(half[key], tensor, rtol=2**-7, atol=1e-6)


def test_a_full_fine_tuning_is_written_smaller(run: Any, trained: Path, tmp_path: Path) -> None:
    model = trained / "full" / "model"
    done = run("merge", "--model", model, "--out", tmp_path / "out", "--dtype", "bfloat16")
    assert done.exit_code == 0, done.stderr
    assert f"{model} as merged\n" in done.stdout
    assert "MB, bfloat16; read by transformers" in done.stdout
    assert loss(run, "--model", tmp_path / "out") == pytest.approx(loss(run, "--model", model), abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "--adapter: is missing"),
        (("--adapter", "RUNS/full"), "holds no adapter_config.json. It has a trained base: --model"),
        (("--adapter", "RUNS"), "holds no adapter_config.json. Name a folder with an adapter."),
        (("--adapter", "RUNS/lora:nan"), "nan is no share"),
        (("--adapter", "RUNS/lora", "--dtype", "bf16"), "--dtype 'bf16': no such type. Did you mean 'bfloat16'?"),
        (("--adapter", "RUNS/lora", "--shard-size", "0"), "--shard-size 0: is in GB"),
        (("--adapter", "RUNS/lora", "--model", "tiny-32"), "is not the one that the run"),
        (("--adapter", "RUNS/lora", "--adapter", "RUNS/moe"), "Adapters of several bases cannot be merged"),
        (("--adapter", "RUNS/lora", "--out", "RUNS"), "is there already"),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_said(
    run: Any, trained: Path, arguments: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    given = [argument.replace("RUNS", str(trained)) for argument in arguments]
    done = run("merge", *given, *([] if "--out" in given else ["--out", tmp_path / "out"]))
    assert done.exit_code == 2
    assert problem in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
