"""Where what only POSIX has is not to be had, as on Windows: every module is imported, and a training runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowregret.runs import portable

HERE = Path(__file__).parent
ARGUMENTS = (
    "train --model tiny --data builtin:arithmetic --steps 2 --max-train 16 --max-eval 8 --method lora:2 --quiet --out"
)


def as_on_windows(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "as_on_windows.py"), *arguments], capture_output=True, text=True, check=False
    )


def test_a_training_runs_and_what_it_leaves_is_read_here(tmp_path: Path, run: object) -> None:
    out = tmp_path / "out"
    done = as_on_windows(*ARGUMENTS.split(), str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert run("verify", out).exit_code in (0, 2)  # type: ignore[operator]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    descriptor = portable.open_no_link(file, os.O_RDWR | os.O_CREAT)
    portable.lock(descriptor)
    portable.write_start(descriptor, b"mine")
    assert portable.read_start(descriptor, 10) == b"mine"
    other = portable.open_no_link(file, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        portable.lock(other)
    os.close(descriptor)
    portable.lock(other, wait=True)
    os.close(other)
    file.rename(tmp_path / "there")
    file.symlink_to(tmp_path / "there")
    with pytest.raises(OSError, match=r"link|loop"):
        portable.open_no_link(file, os.O_RDONLY)
