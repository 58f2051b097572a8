"""A study on several processes, on Ray and by SLURM's local executor: the numbers are those of one process, whatever is
killed, and what cannot work is told in seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.ray_nodes import Nodes, cluster

from lowregret.runs.holder import holder_of

RECIPE = """
kind = "learning-rate"
steps = 6
seeds = 1
batch_size = 4
ranks = [4]
checkpoint_seconds = 0
data = {train = "builtin:biographies:size=64,wordings=2,test_size=8", max_length = 128}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "toy.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(run: Any, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run("study", recipe, "--workers", 1, "--quiet", "--out", out)
    assert done.exit_code == 0, done.stderr
    return out


def trainer(out: Path, process: subprocess.Popen[str], seconds: float = 240) -> int:
    """The process that trains a group of the study, once it has taken steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        for metrics in out.glob("groups/*/trials/*/metrics.jsonl"):
            holder = holder_of(metrics.parents[2])
            if holder is not None and holder.pid != process.pid:
                return holder.pid
        time.sleep(0.05)
    raise AssertionError("nobody trains")


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output + errors


def test_a_worker_that_is_killed_costs_its_steps_alone(
    start: Callable[..., Any], whole: Path, recipe: Path, kill_resume: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start("study", recipe, "--workers", 2, "--out", out)
    os.kill(trainer(out, process), signal.SIGKILL)
    code, said = ended(process)
    assert code == 0, said
    assert "its worker was lost: its process ended without a word" in said
    assert kill_resume.numbers(out) == kill_resume.numbers(whole)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    pytest.importorskip("ray")
    with cluster(tmp_path_factory.mktemp("nodes"), 2) as made:
        yield made


def test_ray_loses_a_worker_and_a_node_and_the_study_goes_on(
    start: Callable[..., Any], nodes: Nodes, whole: Path, recipe: Path, kill_resume: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start("study", recipe, "--ray", nodes.address, "--out", out)
    os.kill(trainer(out, process), signal.SIGKILL)
    nodes.kill()
    code, said = ended(process)
    assert code == 0, said
    assert "Ray, 2 nodes" in said
    assert "its worker was lost" in said
    assert kill_resume.numbers(out) == kill_resume.numbers(whole)


def test_a_study_that_was_killed_on_one_engine_goes_on_with_another(
    start: Callable[..., Any], nodes: Nodes, whole: Path, recipe: Path, kill_resume: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    nodes.add()
    nodes.kill()  # Ray does not know of it for half a minute
    process = start("study", recipe, "--ray", nodes.address, "--quiet", "--out", out)
    trainer(out, process)
    process.kill()
    process.communicate()
    pytest.importorskip("submitit")
    process = start("study", recipe, "--slurm", "local", "--out", out)
    os.kill(trainer(out, process), signal.SIGTERM)  # as SLURM does before it takes a machine back
    code, said = ended(process)
    assert code == 0, said
    assert "lost" not in said
    assert kill_resume.numbers(out) == kill_resume.numbers(whole)
