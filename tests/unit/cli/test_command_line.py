"""The command line without a model: exit codes, messages, and what is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lowregret.cli.app import app
from lowregret.cli.outcome import exit_codes
from lowregret.errors import DataError, LowregretError

HEAVY = ("torch", "transformers", "numpy", "pydantic")
LIGHT = """
import sys
import lowregret
sys.argv = ["lowregret", *sys.argv[2:]]
if len(sys.argv) > 1:
    from lowregret.cli.main import main
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
print("imported:", *(name for name in "{heavy}".split() if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("compare", "--help")])
def test_help_and_import_stay_light(arguments: tuple[str, ...]) -> None:
    # typer itself takes pydantic in when it reads the options of a verb.
    heavy = " ".join(HEAVY[:3] if len(arguments) == 2 else HEAVY)
    program = LIGHT.format(heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program, "-", *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("imported:"), done.stderr


def test_the_search_for_heavy_imports_finds_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import pydantic\n" + LIGHT.format(heavy=" ".join(HEAVY)), "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "imported: pydantic" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--otu", "x"], "--out"),
        (["comapre"], "Did you mean 'compare'?"),
        (["train", "--model", "tiny"], "--out"),
        (["eval", "--data", "rows.jsonl"], "--model"),
        (["compare", "--max-train", "many"], "--max-train"),
        (["compare", "--out", "unused"], "missing --model and --data"),
        (["compare", "--learning-rates", "1e-3,fast"], "--learning-rates '1e-3,fast'"),
    ],
)
def test_a_mistyped_command_ends_with_2_and_says_what_is_valid(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_a_folder_that_is_no_study(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{tmp_path}: is no study" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (LowregretError("what is wrong"), 2, "error: what is wrong"),
        (DataError("broken JSON.", source="rows.jsonl", line=7), 2, "error: rows.jsonl:7: broken JSON."),
        (KeyboardInterrupt(), 130, "run the same command again to go on"),
        (InterruptedError(), 130, "run the same command again to go on"),
        (OSError(5, "Input/output error", "rows.jsonl"), 2, "error: rows.jsonl: Input/output error."),
    ],
)
def test_how_a_command_ends(error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit) as ended, exit_codes(resumable=True):
        raise error
    assert ended.value.exit_code == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""


def test_a_bug_is_not_dressed_up_as_the_users_mistake() -> None:
    with pytest.raises(ZeroDivisionError), exit_codes():
        _ = 1 / 0
