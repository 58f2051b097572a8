"""`lowregret doctor` tells what is wrong with a remedy, and no secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowregret.cli import health
from lowregret.cli.app import run
from lowregret.cli.health import Check, examine

TORCH = {
    "version": "2.13.0",
    "cuda": None,
    "hip": None,
    "threads": 2,
    "available": False,
    "gpus": [],
    "multiplies": True,
}


def torch_says(monkeypatch: pytest.MonkeyPatch, ended: int = 0, **facts: object) -> None:
    ran = SimpleNamespace(returncode=ended, stdout=json.dumps({**TORCH, **facts}), stderr="ImportError: libcudart\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ran)
    monkeypatch.setattr(
        health, "environment", lambda: dict.fromkeys(("lowregret", "python", "system", "processor", "cores"), "x")
    )


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is wrong, and importing torch takes no time."""
    torch_says(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache" / "below"))
    monkeypatch.setattr(health.shutil, "which", lambda name: None)


def checks() -> dict[str, Check]:
    return {check.name: check for check in examine()}


def problems() -> Iterator[str]:
    return (name for name, check in checks().items() if check.state == "problem")


def test_here_all_is_well_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert not list(problems())
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("all is well\n")
    assert "torch: 2.13.0 (CPU only), 2 threads" in out


def test_a_secret_is_set_and_no_more(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "LOWREGRET_API_KEY"):
        monkeypatch.setenv(name, f"hf_secret_of_{name.lower()}")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:hunter2@mirror.example")
    assert run(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    found = {check["name"]: check["found"] for check in json.loads(out)["checks"]}
    assert "token set" in found["Hugging Face hub"]
    assert "HF_TOKEN set" in found["variables"]
    assert "hf_secret" not in out
    assert "hunter2" not in out


def test_a_torch_that_cannot_be_imported_is_a_problem_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch_says(monkeypatch, ended=1)
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "!!   torch: cannot be imported: ImportError: libcudart" in out
    assert "pip install --force-reinstall torch" in out
    assert out.endswith("1 problem\n")


@pytest.mark.parametrize(("cuda", "said"), [(None, "built for CPUs only"), ("13.0", "sees no GPU")])
def test_a_driver_without_a_gpu_in_torch_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, said: str
) -> None:
    monkeypatch.setattr(health.shutil, "which", lambda name: f"/usr/bin/{name}")
    torch_says(monkeypatch, cuda=cuda)
    assert said in checks()["gpu"].found
    assert checks()["gpu"].remedy


def test_gpus_are_told_with_what_the_plan_knows_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(monkeypatch, cuda="13.0", gpus=[["NVIDIA H100 80GB HBM3", 85 * 10**9, "9.0"], ["A card", 10**9, "1.0"]])
    found = checks()
    assert "known to the plan as H100" in found["gpu 0"].found
    assert "not known to the plan" in found["gpu 1"].found
    assert not list(problems())


def test_what_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "nosuch-package>=1", "rich>=13", 'nosuch-other>=2; extra == "serve"']
    monkeypatch.setattr(health, "requires", lambda name: wanted)
    found = checks()
    assert "is older than 99; nosuch-package is not installed" in found["packages"].found
    assert found["extra serve"] == Check(
        "extra serve", "note", "nosuch-other is not installed", "pip install 'lowregret[serve]'"
    )


@pytest.mark.parametrize("what", ["_writes", "_locks"])
def test_a_folder_that_does_not_do_is_named_with_another(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(health, what, refuse)
    found = checks()["cache"]
    assert (found.state, found.remedy) == ("problem", "LOWREGRET_CACHE names another folder.")
    assert "Read-only file system" in found.found


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**6))
    assert {"working folder", "cache", "temporary files", "Hugging Face cache"} <= set(problems())
    assert "Make room" in checks()["cache"].remedy
