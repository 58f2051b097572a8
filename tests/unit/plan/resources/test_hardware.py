"""Devices by name, and the probe of this machine, which runs once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import LowregretError, SpecError
from lowregret.plan.resources import hardware
from lowregret.plan.resources.hardware import Hardware, catalogue, find_hardware

PROBED = Hardware("this CPU", "cpu", 0, 2e11, 1e10, 0.95, 2e-5, None, "measured here")


@pytest.mark.parametrize("device", catalogue(), ids=lambda device: device.name)
def test_a_device_is_found_by_its_name_and_says_where_its_figures_come_from(device: Hardware) -> None:
    assert find_hardware(device.name) == device
    assert find_hardware(device.name.lower().replace(" ", "-")) == device
    assert "data sheet" in device.source
    assert ("price" in device.source) == (device.price_per_hour is not None)


def test_figures_are_plausible_and_names_are_no_two_devices() -> None:
    """A figure in the wrong unit is off by a thousand; one with sparsity would be above the newest device's."""
    assert len({device.name for device in catalogue()}) == len(catalogue())
    for device in catalogue():
        assert 8 * 2**30 <= device.memory_bytes <= 300 * 2**30
        assert 2e13 <= device.flops_per_second <= 2.5e15
        assert 2e11 <= device.bytes_per_second <= 1e13
        assert f"{round(device.memory_bytes / 2**30)}GB" in device.name


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("h100", "H100 SXM 80GB"),
        ("A100", "A100 80GB"),
        ("a100 40", "A100 40GB"),
        ("nvidia RTX 4090", "RTX 4090 24GB"),
        ("4090", "RTX 4090 24GB"),
        ("AMD MI300X", "MI300X 192GB"),
    ],
)
def test_usual_spellings(asked: str, name: str) -> None:
    assert find_hardware(asked).name == name


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("NVIDIA H100 NVL", "H100 NVL 94GB"),
        ("NVIDIA H200", "H200 141GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA L4", "L4 24GB"),
        ("NVIDIA L40S", "L40S 48GB"),
        ("NVIDIA A10", "A10 24GB"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090 24GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090 32GB"),
        ("NVIDIA B200", "B200 180GB"),
        ("AMD Instinct MI300X", "MI300X 192GB"),
        ("Tesla T4", "T4 16GB"),
    ],
)
def test_what_a_driver_calls_a_device(reported: str, name: str) -> None:
    """As torch.cuda.get_device_name gives it: a run knows its price by that."""
    assert find_hardware(reported).name == name


def test_a_wrong_name_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match="RTX 4090 24GB"):
        find_hardware("rtx 4900")


def test_an_ambiguous_name_lists_what_it_may_mean() -> None:
    with pytest.raises(SpecError, match=r"may mean .*RTX 3090 24GB.*RTX 4090 24GB"):
        find_hardware("rtx")


def test_this_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = answering(monkeypatch, tmp_path, json.dumps(asdict(PROBED)))
    first, second = find_hardware("auto"), find_hardware("cpu")
    assert len(runs) == 1
    assert runs[0][0] == sys.executable
    assert first == second
    assert first.memory_bytes > 1e8
    assert (first.flops_per_second, first.kind) == (2e11, "cpu")


def test_another_number_of_threads_is_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = answering(monkeypatch, tmp_path, json.dumps(asdict(PROBED)))
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        find_hardware("auto")
    assert len(runs) == 2


def test_the_answer_of_an_older_probe_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = answering(monkeypatch, tmp_path, json.dumps(asdict(PROBED)))
    for version in (2, 3):
        monkeypatch.setattr(hardware, "PROBE_VERSION", version)
        find_hardware("auto")
    assert len(runs) == 2


def test_a_damaged_answer_in_the_cache_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = answering(monkeypatch, tmp_path, json.dumps(asdict(PROBED)))
    find_hardware("auto")
    (file,) = (tmp_path / "lowregret").iterdir()
    file.write_text(file.read_text()[:20])
    find_hardware("auto")
    assert len(runs) == 2


def test_a_probe_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answering(monkeypatch, tmp_path, "", code=1, error="no torch here")
    with pytest.raises(LowregretError, match="no torch here"):
        find_hardware("auto")


def answering(
    monkeypatch: pytest.MonkeyPatch, cache: Path, answer: str, code: int = 0, error: str = ""
) -> list[list[str]]:
    """Let the probe's process give this answer; returns the commands that were run."""
    runs: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        runs.append(command)
        return subprocess.CompletedProcess(command, code, answer, error)

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(subprocess, "run", run)
    return runs
