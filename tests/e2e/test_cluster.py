"""A study on several processes, on Ray, by SLURM's local executor and from a store: the numbers are those of one
process, whatever is killed, and what cannot work is told in seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
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


def trainer(out: Path, process: subprocess.Popen[str], but: int | None = None, seconds: float = 240) -> int:
    """The process that trains a group of the study, once it has taken steps; not the one `but`, which is ending."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        for metrics in out.glob("groups/*/trials/*/metrics.jsonl"):
            holder = holder_of(metrics.parents[2])
            if holder is not None and holder.pid not in (process.pid, but):
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
    process = start("study", recipe, "--ray", nodes.address, "--out", out, "--json")
    os.kill(trainer(out, process), signal.SIGKILL)
    nodes.kill()
    output, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    json.loads(output)  # nothing of Ray's between
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
    first = trainer(out, process)
    process.kill()  # of which Ray hears, and ends the worker `first` a moment later
    process.communicate()
    pytest.importorskip("submitit")
    process = start("study", recipe, "--slurm", "local", "--out", out)
    os.kill(trainer(out, process, but=first), signal.SIGTERM)  # as SLURM does before it takes a machine back
    code, said = ended(process)
    assert code == 0, said
    assert "lost" not in said
    assert kill_resume.numbers(out) == kill_resume.numbers(whole)


SECRET = "a-secret-that-no-record-has"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bucket `lab` of an S3 server on this machine, as the folder in which the server keeps it."""
    pytest.importorskip("obstore")
    pytest.importorskip("localbucket")
    (tmp_path / "s3" / "lab").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache"))
    server = subprocess.Popen(
        [sys.executable, "-m", "localbucket", "--port", str(port), str(tmp_path / "s3")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while True:
            with suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        yield tmp_path / "s3" / "lab"
    finally:
        server.kill()
        server.wait()


def kept(bucket: Path, name: str) -> set[str]:
    """The objects of a name, each with its content's hash."""
    return {path.name for path in bucket.glob(f"toy/files/groups/*/trials/*/{name}@*")}


def test_a_study_goes_on_from_a_store_on_a_machine_that_shares_no_folder(
    start: Callable[..., Any], run: Any, bucket: Path, whole: Path, recipe: Path, kill_resume: Any, tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    first, second, store = tmp_path / "first", tmp_path / "second", ["--store", "s3://lab/toy"]
    process = start("study", recipe, "--workers", 2, "--out", first, *store)
    worker = psutil.Process(trainer(first, process))
    end = time.monotonic() + 120
    while not (kept(bucket, "examples.json") and list(bucket.rglob("checkpoint.safetensors@*"))):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    worker.suspend()
    refused = run("study", recipe, "--workers", 1, "--quiet", "--out", second, *store)
    assert refused.exit_code == 2
    assert f"process {process.pid} on " in refused.stderr
    assert not (second / "study.json").exists()
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        each.kill()
    process.communicate()
    before = kept(bucket, "examples.json")

    process = start("study", recipe, "--slurm", "local", "--out", second, *store)
    code, said = ended(process)
    assert code == 0, said
    (second / "store.json").unlink()
    assert kill_resume.numbers(second) == kill_resume.numbers(whole)
    logs = [log.read_text() for log in (second / "logs").iterdir()]
    assert all(log.count(" begins on ") == 2 for log in logs), "of the worker on each machine"
    assert before <= kept(bucket, "examples.json")
    assert not list(bucket.rglob("checkpoint.safetensors@*")), "what no manifest names any more is removed"
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert SECRET.encode() not in file.read_bytes(), file
    status = run("study", "status", *store)
    assert "s3://lab/toy: 2 groups: 2 done; has its claims" in status.stdout
    as_json = json.loads(run("study", "status", *store, "--json").stdout)
    assert list(as_json["studies"]) == ["s3://lab/toy"]


def test_a_store_that_does_not_answer_is_told_in_seconds(
    run: Any, bucket: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    began = time.monotonic()
    ended = run("study", recipe, "--workers", 1, "--quiet", "--out", tmp_path / "out", "--store", "s3://lab/toy")
    assert ended.exit_code == 2
    assert "s3://lab/toy: no answer for leases/study" in ended.stderr
    assert "AWS_ENDPOINT_URL" in ended.stderr
    assert time.monotonic() - began < 60
