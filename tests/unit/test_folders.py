"""Where the user's own folders are, and what is done for one who has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowregret import folders


def test_the_environment_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "LOWREGRET_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders.data_folder() == tmp_path / ".local" / "share" / "lowregret"
    assert folders.cache_folder() == tmp_path / ".cache" / "lowregret" / "data"
    assert folders.expanded("~/base") == tmp_path / "base"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert folders.cache_folder() == Path("/somewhere/lowregret/data")
    monkeypatch.setenv("LOWREGRET_CACHE", "/elsewhere")
    assert folders.cache_folder() == Path("/elsewhere")


def test_a_name_that_nobody_has_stays_as_it_is() -> None:
    assert folders.expanded("~nobody-has-this-name/base") == Path("~nobody-has-this-name/base")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes a bare number")
def test_a_user_without_a_home_plans() -> None:
    """As in a container that runs under a number: no HOME, no entry among the users."""
    code = """
import os, sys
from lowregret import folders
from lowregret.plan.resources import hardware
from lowregret.models.files import cached_snapshot, folder_of
from lowregret.export import places
os.setuid(54321)
assert str(folders.home()) == "/", folders.home()
assert folders.cache_folder().as_posix() == "/.cache/lowregret/data"
assert folder_of("~/base") is None and cached_snapshot("somebody/base") is None
"""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "HF_", "LOWREGRET_"))}
    bare.pop("HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=bare, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_user_without_a_home_gets_charts() -> None:
    """What draws them asks for a home as it is imported; the command line gives one."""
    code = """
import pwd, sys
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
from lowregret.cli.main import main
sys.argv = ["lowregret", "report", "no-such-folder"]
main()
"""
    bare = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", code], env=bare, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no-such-folder" in done.stderr
    assert "Traceback" not in done.stderr
