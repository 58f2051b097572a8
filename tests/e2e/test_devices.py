"""`--devices N` and torchrun: what a user sees is one training, and its records are those of one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

TWO = ("--devices", "2")
TRAIN = (
    "train --model tiny --data builtin:arithmetic:size=64 --method full --learning-rate 1e-3 --steps 4 --batch-size 4 "
    "--max-train 24 --max-eval 8 --checkpoint-seconds 0 --quiet"
).split()
COMPARE = (
    "compare --model tiny --data builtin:arithmetic:size=64 --methods lora:2,lora:3:mlp,full "
    "--learning-rates 1e-4,1e-3 --seeds 1 --steps 4 --batch-size 4 --max-train 24 --max-eval 8 --quiet"
).split()
REWARDS = (
    "train --model tiny --objective rl --task builtin:arithmetic:difficulty=2,size=256,test_size=8 --max-tokens 32 "
    "--learning-rate 5e-3 --batch-size 8 --steps 2 --evals 2 --quiet"
).split()


def furthest(one: Path, other: Path) -> float:
    """The largest difference of a number of two files of weights."""
    first, second = (safetensors.numpy.load_file(path) for path in (one, other))
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


@pytest.mark.parametrize(
    ("method", "parallel", "said"),
    [
        ("lora:4", "fsdp=2", "devices: 2, fsdp=2; a LoRA's base is in parts"),
        ("lora:4", "tensor=2", "devices: 2, tensor=2; a LoRA's base is cut"),
        ("full", "replicate=2", "devices: 2, replicate=2; a LoRA's base is whole on each"),
        ("lora:4:experts", "expert=2", "devices: 2, expert=2; a LoRA's base is cut"),
    ],
)
def test_however_the_devices_are_arranged_it_is_the_same(
    run: Any, method: str, parallel: str, said: str, tmp_path: Path
) -> None:
    """Its weights, and what it then answers: an adapter is read again on the same arrangement."""
    shared = "experts" in method  # where they are, no replies are drawn
    words = [*(word for word in TRAIN if word != "--quiet"), "--method", method, "--replies", 0 if shared else 2]
    words += ["--model", "tiny-moe"] if shared else []
    assert run(*words, "--out", tmp_path / "one").exit_code == 0
    done = run(*words, *TWO, "--parallel", parallel, "--out", tmp_path / "two")
    assert done.exit_code == 0, done.stderr
    assert said in done.stdout
    (weights,) = (tmp_path / "one").glob("*/*.safetensors")
    # Adam moves a weight by the rate, 1e-3, whichever way the last bit of a gradient that is almost zero points.
    assert furthest(weights, tmp_path / "two" / weights.relative_to(tmp_path / "one")) < 1e-3
    curves = [(tmp_path / folder / "metrics.jsonl").read_text().splitlines() for folder in ("one", "two")]
    losses = [[json.loads(line)["train_nll"] for line in curve] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    if shared:
        return
    rows = [json.loads((tmp_path / folder / "replies.json").read_text())["rows"] for folder in ("one", "two")]
    texts = [[reply["text"] for row in found for reply in row["replies"].values()] for found in rows]
    assert len(texts[0]) == 4
    assert texts[0] == texts[1]


def test_a_comparison_on_two_is_that_on_one(run: Any, kill_resume: Any, tmp_path: Path) -> None:
    for folder, devices in (("one", ()), ("two", TWO)):
        assert run(*COMPARE, *devices, "--out", tmp_path / folder).exit_code == 0
    one, two = (kill_resume.numbers(tmp_path / folder) for folder in ("one", "two"))
    assert kill_resume.apart(one, two) < 1e-4
    verdicts = [json.loads((tmp_path / folder / "verdict.json").read_text()) for folder in ("one", "two")]
    assert verdicts[0]["verdict"] == verdicts[1]["verdict"]
    assert verdicts[0]["regret_nats"] == pytest.approx(verdicts[1]["regret_nats"], abs=1e-5)
    weights = list((tmp_path / "one").rglob("*.safetensors"))
    assert len(weights) >= 3
    for path in weights:
        assert furthest(path, tmp_path / "two" / path.relative_to(tmp_path / "one")) < 1e-4


def test_two_loras_on_experts_train_on_two(run: Any, kill_resume: Any, tmp_path: Path) -> None:
    """Each on a rank of its own, which counts nothing of the other's experts; and what went to each is the sum."""
    words = [*COMPARE, "--model", "tiny-moe", "--methods", "lora:2:experts,lora:2:shared-outer:experts,full"]
    for folder, devices in (("one", ()), ("two", TWO)):
        done = run(*words, "--learning-rates", "1e-3", *devices, "--out", tmp_path / folder)
        assert done.exit_code == 0, done.stderr
    used = [
        {file.parent.name: json.loads(file.read_text()) for file in (tmp_path / folder).rglob("experts.json")}
        for folder in ("one", "two")
    ]
    assert len(used[0]) >= 3
    assert used[0] == used[1]
    assert kill_resume.apart(*(kill_resume.numbers(tmp_path / folder) for folder in ("one", "two"))) < 1e-3


@pytest.mark.parametrize("method", ["lora:4", "full"])
def test_rewards_on_two_are_those_on_one(run: Any, method: str, tmp_path: Path) -> None:
    """The completions are the same, and so is what is learned from them."""
    for folder, devices in (("one", ()), ("two", TWO)):
        done = run(*REWARDS, "--method", method, *devices, "--out", tmp_path / folder)
        assert done.exit_code == 0, done.stderr
    said, curves = [], []
    for folder in ("one", "two"):
        said.append([json.loads(line) for line in (tmp_path / folder / "transcripts.jsonl").read_text().splitlines()])
        curves.append([json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()])
    assert said[0] == said[1]
    assert any(line.get("grad_norm") for line in curves[0]), "nothing was learned"
    for one, two in zip(*curves, strict=True):
        assert one.get("test_reward") == two.get("test_reward")
        assert (one.get("grad_norm") or 0.0) == pytest.approx(two.get("grad_norm") or 0.0, rel=1e-4)


def test_one_that_is_killed_ends_all_and_one_device_goes_on(kill_resume: Any, tmp_path: Path) -> None:
    study = [*TRAIN, "--steps", "40", "--replies", "0"]
    process = kill_resume.start(tmp_path / "killed", [*study, *TWO])
    curve = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and (not curve.exists() or curve.read_text().count("\n") < 3):
        time.sleep(0.05)
    (other,) = kill_resume.followers(process.pid)
    began = time.monotonic()
    os.kill(other, 9)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 2
    assert b"the process of rank 1 was ended by SIGKILL" in errors
    assert (tmp_path / "killed" / "checkpoint.safetensors").exists()
    kill_resume.finish(tmp_path / "killed", study)
    kill_resume.finish(tmp_path / "whole", study)
    one, other = (kill_resume.numbers(tmp_path / folder) for folder in ("whole", "killed"))
    assert kill_resume.apart(one, other) < 1e-3


def test_the_others_end_with_rank_0(kill_resume: Any, tmp_path: Path) -> None:
    process = kill_resume.start(tmp_path / "out", [*TRAIN, "--steps", "400", "--replies", "0", *TWO])
    while process.poll() is None and not (others := kill_resume.followers(process.pid)):
        time.sleep(0.05)
    while process.poll() is None and not (tmp_path / "out" / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{other}").exists() for other in others) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{other}").exists() for other in others)


def test_torchrun_starts_it_too(run: Any, tmp_path: Path) -> None:
    """And ends with the code of rank 0, whether or not there is something to train."""
    assert run(*TRAIN, "--out", tmp_path / "one").exit_code == 0

    def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*start, "-m", "lowregret", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    done = torchrun(*TRAIN, "--replies", 0, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out loss") == 1, "one of them talks"
    assert furthest(tmp_path / "one/model/model.safetensors", tmp_path / "two/model/model.safetensors") < 1e-4
    refused = torchrun(*TRAIN, "--devices", 3, "--out", tmp_path / "three")
    assert refused.returncode != 0
    assert "--devices 3: torchrun has started 2" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", 0), "greater than or equal to 1"),
        (("--devices", "two"), "devices"),
        (("--device", 2), "For 2 devices: --devices 2"),
        (("--devices", 2, "--device", "cuda:1"), "cuda:1"),
    ],
)
def test_bad_numbers_of_devices_are_refused(run: Any, words: tuple[Any, ...], said: str, tmp_path: Path) -> None:
    done = run(*TRAIN, *words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr


def test_workers_and_devices_are_not_both(run: Any, tmp_path: Path) -> None:
    done = run("study", "rank", "--quick", *TWO, "--workers", 2, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "--workers 2: each would train on all devices" in done.stderr
