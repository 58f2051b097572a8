"""Ctrl-C: a clean stop that says how to go on, at any time; a second one stops at once; going on changes no number."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lowregret.train.interrupt import stop_requests

STUDY = (
    "--model tiny --data builtin:arithmetic:size=64 --methods lora:2,full --learning-rates 1e-4,1e-3 --seeds 1 "
    "--steps 40 --batch-size 4 --max-train 24 --max-eval 8"
).split()
GO_ON = "run the same command again to go on"


def wait_for(process: subprocess.Popen[str], words: str, seconds: float = 90) -> str:
    """Read standard output until a line holds these words."""
    assert process.stdout is not None
    end, seen = time.monotonic() + seconds, ""
    while words not in seen:
        assert select.select([process.stdout], [], [], max(end - time.monotonic(), 0))[0], f"no {words!r} in: {seen}"
        line = process.stdout.readline()
        assert line, f"ended without {words!r}: {seen}"
        seen += line
    return seen


def test_stopped_twice_and_resumed_it_ends_with_the_same_numbers(
    start: Any, run: Any, kill_resume: Any, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run("compare", *STUDY, "--out", whole).exit_code == 0
    for words in ("trial 2 of", "trial 3 of"):  # two LoRA trials together, then a FullFT trial
        process = start("compare", *STUDY, "--out", stopped, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        wait_for(process, words)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert GO_ON in stderr
        assert "Traceback" not in stderr
        assert not (stopped / "verdict.json").exists()
        assert (stopped / "checkpoint.safetensors").exists()
    assert run("compare", *STUDY, "--out", stopped).exit_code == 0
    assert kill_resume.numbers(stopped) == kill_resume.numbers(whole)


def work(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait until a process has had so much processor time: on a busy machine it begins late."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        time.sleep(seconds)
        return
    until = time.monotonic() + 60
    while time.monotonic() < until:
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        if (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") >= seconds:
            return
        time.sleep(0.01)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_ctrl_c_while_loading(start: Any, tmp_path: Path, part: int) -> None:
    """Somewhere in the import of torch and transformers, in the data, or in the base."""
    seconds = (part + random.Random(part).random()) * 1.5 + 0.3
    process = start("compare", *STUDY, "--steps", "500", "--out", tmp_path / "out")  # never done by then
    work(process, seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert GO_ON in stderr
    assert "Traceback" not in stderr


def press_ctrl_c_twice() -> None:
    said: list[str] = []
    with stop_requests(said.append) as asked:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert asked()
        assert said == ["stopping at the next step (Ctrl-C again: at once) …"]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)  # a step that takes long


def test_a_second_ctrl_c_does_not_wait_for_the_step() -> None:
    began, handler = time.monotonic(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c_twice()
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_that_python_does_not_know_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of C's: Python tells None, and cannot put it back."""
    put: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: put.append(handler))
    with stop_requests(lambda line: None) as asked:
        assert not asked()
    assert put[-1] is signal.SIG_DFL


def test_sigterm_stops_as_cleanly(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train = "--model tiny --data builtin:arithmetic:size=64 --max-eval 8 --method lora:2 --steps 2000".split()
    process = start("train", *train, "--out", out, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    deadline = time.monotonic() + 90
    while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").stat().st_size < 300:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert GO_ON in stderr
    assert (out / "checkpoint.safetensors").exists()
