"""A full disk, a folder that cannot be written, damaged files, two processes: a clear end, and nothing lost."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TRAIN = (
    "train --model tiny --steps 4 --batch-size 4 --max-length 64 --learning-rate 1e-3 --checkpoint-seconds 0".split()
)
NUMBERS = ("status", "test_nll", "steps", "tokens", "error")


@pytest.fixture(scope="module")
def train(rows: Path) -> list[str]:
    """`lowregret train` on a few rows, with a checkpoint after every step."""
    return [*TRAIN, "--data", str(rows / "rows.jsonl")]


@pytest.fixture(scope="module")
def expected(run: Any, train: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each method's training ends with when nothing is in its way."""
    found = {}
    for method in ("lora:2", "full"):
        out = tmp_path_factory.mktemp("expected") / "out"
        assert run(*train, "--method", method, "--out", out).exit_code == 0
        found[method] = numbers(out)
    return found


def numbers(out: Path) -> dict[str, Any]:
    record = json.loads((out / "trial.json").read_text())
    return {name: record[name] for name in NUMBERS}


def refused(ended: Any, *words: str) -> None:
    assert ended.exit_code == 2, ended
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr, ended.stderr


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes; the test is skipped where none can be mounted."""
    if shutil.which("mount") is None:
        pytest.skip("no small file system can be mounted here: there is no mount")
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("method", "kilobytes", "arguments", "full_at"),
    [
        ("lora:2", 16, [], "metrics.jsonl"),
        ("lora:2", 100, [], "checkpoint.safetensors"),
        ("full", 9000, [], "checkpoint.safetensors"),
        ("lora:2", 60, ["--checkpoint-seconds", "60"], "adapter"),
        ("full", 2000, ["--checkpoint-seconds", "60"], "model"),
    ],
)
def test_a_full_disk(
    run: Any,
    train: list[str],
    expected: Any,
    tmp_path: Path,
    method: str,
    kilobytes: int,
    arguments: list[str],
    full_at: str,
) -> None:
    command = [*train, *arguments, "--method", method, "--out", tmp_path / "disk" / "out"]
    with small_disk(tmp_path / "disk", kilobytes * 1024) as disk:
        refused(run(*command), full_at, "the disk is full", "run the same command again")
        out = disk / "out"
        assert not list(out.rglob("*.partial"))
        for name in ("spec.json", "trial.json"):
            json.loads((out / name).read_text())
        assert json.loads((out / "trial.json").read_text())["status"] == "running"
        assert not (out / full_at).exists() or full_at == "metrics.jsonl"
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert run(*command).exit_code == 0
        assert numbers(out) == expected[method]


def test_a_disk_that_is_full_from_the_start(run: Any, train: list[str], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8192) as disk:
        (disk / "ballast").write_bytes(b"\0" * 8192)
        refused(run(*train, "--method", "lora:2", "--out", disk / "out"), "the disk is full")
        (disk / "ballast").unlink()


def _bind_permissions() -> None:
    """In the child, before it starts: root without the capability to write everywhere."""
    drop_from_bounding_set, override, read_search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (override, read_search):
        if libc.prctl(drop_from_bounding_set, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def test_a_folder_without_write_permission(start: Any, train: list[str], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    try:
        process = start(*train, "--out", closed, preexec_fn=_bind_permissions if os.geteuid() == 0 else None)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 2, stderr
        assert f"error: {closed}: no permission to write here. Choose another folder with --out" in stderr
        assert "Traceback" not in stderr
        assert "held-out loss" not in stdout
        assert list(closed.iterdir()) == []
    finally:
        closed.chmod(0o755)


def test_two_processes_in_one_folder(run: Any, train: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(run(*train, "--out", out), f"{out}: another lowregret process", "another --out")
        assert [path.name for path in out.iterdir()] == [".lock"]
    assert run(*train, "--out", out).exit_code == 0


@pytest.fixture(scope="module")
def halfway(run: Any, train: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training interrupted after some steps: a checkpoint, a curve, a record that says `running`."""
    from lowregret.train.loop import Pack

    out = tmp_path_factory.mktemp("halfway") / "out"
    whole, calls = Pack.save, []

    def stop_at_two(*arguments: Any) -> None:
        whole(*arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "save", stop_at_two)
        assert run(*train, "--method", "lora:2", "--out", out).exit_code == 130
    assert (out / "checkpoint.safetensors").exists()
    return out


def _changed(change: Any, *, metadata: bool = True) -> Any:
    """Spoil a safetensors file: {name: tensor} → another, or none of its metadata."""

    def spoil(file: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        with safe_open(file, "pt") as opened:
            known = opened.metadata()
        save_file(
            {key: t.contiguous() for key, t in change(load_file(file)).items()}, file, known if metadata else None
        )

    return spoil


def _cut(kind: str) -> Any:
    return _changed(lambda tensors: {k: t[:1] if f"/{kind}" in k and t.ndim else t for k, t in tensors.items()})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, 0),
        lambda file: file.write_bytes(os.urandom(5000)),
        _changed(dict, metadata=False),
        _cut("weights/"),
        _cut("adam/exp_avg/"),
        _changed(lambda tensors: {k.replace("/adam/exp_avg/", "/adam/exp_avg/no."): t for k, t in tensors.items()}),
        _changed(lambda tensors: {k: t for k, t in tensors.items() if "/adam/step/" not in k}),
        _changed(lambda tensors: {k: t.double() for k, t in tensors.items()}),
    ],
    ids=["truncated", "empty", "garbage", "no progress", "shapes", "moments", "names", "missing", "precision"],
)
def test_a_corrupt_checkpoint(
    run: Any, train: list[str], expected: Any, tmp_path: Path, halfway: Path, spoil: Any, snapshot: Any
) -> None:
    out = tmp_path / "out"
    shutil.copytree(halfway, out)
    spoil(out / "checkpoint.safetensors")
    before = snapshot(out)
    command = [*train, "--method", "lora:2", "--out", out]
    refused(run(*command), "checkpoint.safetensors: the checkpoint is damaged", "Delete it")
    assert snapshot(out) == before
    (out / "checkpoint.safetensors").unlink()
    assert run(*command).exit_code == 0
    assert numbers(out) == expected["lora:2"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trial.json", b"", "trial.json: damaged"),
        ("trial.json", b"{}", "trial.json: field 'id'"),
        ("spec.json", b'{"spec": ', "spec.json: damaged"),
        ("spec.json", b"[]", "spec.json: damaged"),
        ("metrics.jsonl", b'{"step": 1}\n{"step": 2}\n', "metrics.jsonl:1: damaged"),
    ],
)
def test_a_corrupt_record_is_named_and_kept(
    run: Any, train: list[str], tmp_path: Path, halfway: Path, name: str, content: bytes, words: str, snapshot: Any
) -> None:
    out = tmp_path / "out"
    shutil.copytree(halfway, out)
    (out / name).write_bytes(content)
    before = snapshot(out)
    refused(run(*train, "--method", "lora:2", "--out", out), words)
    assert snapshot(out) == before


@pytest.mark.parametrize("name", ["trial.json", "examples.json", "base.json"])
def test_a_corrupt_record_of_a_study_costs_one_trial_at_most(
    run: Any, study: Path, study_arguments: list[str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(study, out)
    spoilt = out / name if name == "base.json" else next(out.glob(f"trials/*seed1/{name}"))
    spoilt.write_text("{}")
    (out / "verdict.json").unlink()
    command = ("compare", *study_arguments, "--out", out)
    refused(run(*command), str(spoilt), "Delete")
    spoilt.unlink()
    if name == "examples.json":
        refused(run(*command), str(spoilt))
        (spoilt.parent / "trial.json").unlink()
    ended = run(*command)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.count("\ntrial ") == (name != "base.json")
    found, before = (json.loads((folder / "verdict.json").read_text()) for folder in (out, study))
    for field in ("verdict", "regret_nats", "ci95", "base_nll"):
        assert found[field] == before[field]
