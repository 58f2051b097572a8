"""The command line on the bundled base `tiny`, in this process unless a process of its own is the point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import typed

PROGRAM = str(Path(sys.executable).with_name("lowregret"))
SMALL = "--model tiny --batch-size 4 --max-length 64 --evals 2".split()


Run = Callable[..., Any]
"""`run` of the conftest above: exit_code, stdout and stderr of a command."""


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """`start("compare", …)` as a process of its own."""

    def call(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAM, *typed(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return call


def questions(count: int) -> list[dict[str, str]]:
    """Distinct rows with unused columns beside question and answer."""
    return [
        {"question": f"What is {n} + {n + 1}?", "answer": f"It is {2 * n + 1}.", "id": str(n)} for n in range(count)
    ]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl, .json, .csv and .parquet of the same 24 questions, held_out.jsonl with others."""
    import csv

    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("rows")
    made = questions(32)
    train, held_out = made[:24], made[24:]
    for name, part in (("rows", train), ("held_out", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "rows.json").write_text(json.dumps(train))
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(train[0]))
        writer.writeheader()
        writer.writerows(train)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(train), folder / "rows.parquet")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def loaded(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """`snapshot(folder)`: its files, to see that nothing changed."""
    return contents


@pytest.fixture(scope="session")
def study(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two methods, searched by itself; tests must leave it as it is."""
    out = tmp_path_factory.mktemp("study") / "out"
    ended = run("compare", *STUDY, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    return out


STUDY = [*SMALL, *"--data builtin:arithmetic:size=64 --methods lora:4,full --seeds 2 --steps 6".split(),
         *"--max-train 32 --max-eval 12 --replies 8".split()]  # fmt: skip


@pytest.fixture(scope="session")
def study_arguments() -> list[str]:
    """What `study` was made with, but for --out."""
    return list(STUDY)


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that forgets --out writes below the test's own folder."""
    monkeypatch.chdir(tmp_path)
    os.environ.pop("COLUMNS", None)
