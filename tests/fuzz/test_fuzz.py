"""Some spoilt files of every kind with a fixed seed, read by the command line in this process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz import seeds
from tests.fuzz.cases import KINDS

COUNT = 6
"""Of each kind: those that take long are tried by `make fuzz`, which measures and ends them."""
SLOW = ("report", "compare")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    seeds.write_files(folder)
    made = {name: words for name, words in seeds.commands(folder).items() if name in ("run", "rl")}
    seeds.write_commands(folder, made)
    for words in made.values():
        assert run(*words).exit_code == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_file_is_read_or_refused(
    kind: str, home: Path, tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback is an exception here; the command's own refusal names what is wrong in one line or more."""
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache"))
    make, _ = KINDS[kind]
    refused = 0
    for number in range(COUNT):
        here = tmp_path / str(number)
        here.mkdir()
        case = make(random.Random(f"{kind}/{number}"), home, here)
        if case.arguments[0] in SLOW:
            continue
        ended = run(*case.arguments)
        assert ended.exit_code in (0, 2) or "DIFFERS" in ended.stdout + ended.stderr, case
        if ended.exit_code == 2:
            assert "error: " in ended.stderr, case
            refused += 1
    assert refused, "nothing was spoilt enough to be refused"
