"""The command line without a model: exit codes, messages, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
    # The flags of a verb come from the fields of its spec, which pydantic holds.
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
        (["comapre"], 'Did you mean "compare"?'),
        (["train", "--model", "tiny"], "missing --out."),
        (["train", "--out"], "--out needs a value."),
        (["compare", "--model"], "--model needs a value."),
        (["eval", "--data", "rows.jsonl"], "--model"),
        (["compare", "--max-train", "many"], "--max-train"),
        (["compare", "--max-train", "2.5"], "is not a whole number"),
        (["compare", "--config", "a.toml", "--recipe", "demo"], "Choose one"),
        (["compare", "--recipe", "dmeo"], "Did you mean 'demo'?"),
        (["compare", "--recipe", "adapter"], "is for `lowregret train`"),
        (["study", "rnak"], "Did you mean 'rank'?"),
        (["study", "rank", "--workers", "0"], "--workers 0"),
        (["study", "rank", "more"], "unexpected 'more'. The folder of a study is its --out"),
        (
            ["train", "--data", "a.jsonl", "b.jsonl.gz", "--model", "a", "--out", "x"],
            "Several files go into one --data",
        ),
        (["eval", "runs/a", "a.parquet", "b.parquet"], "Several files go into one --data"),
        (["plan", "tiny", "a.parquet", "b.parquet"], "Several files go into one name"),
        (["chat", "runs/a", "a.parquet"], "unexpected 'a.parquet'. Leave it out."),
        (["verify"], "missing FOLDER."),
        (["compare", "--out", "unused"], "missing --model and --data"),
        (["compare", "--learning-rates", "1e-3,fast"], "--learning-rates '1e-3,fast'"),
    ],
)
def test_a_mistyped_command_ends_with_2_and_says_what_is_valid(
    run: Any, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_a_folder_that_is_no_study(run: Any, tmp_path: Path) -> None:
    done = run("report", tmp_path)
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
    with pytest.raises(SystemExit) as ended, exit_codes(resumable=True):
        raise error
    assert ended.value.code == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""


def test_a_bug_is_not_dressed_up_as_the_users_mistake() -> None:
    with pytest.raises(ZeroDivisionError), exit_codes():
        _ = 1 / 0


def test_without_a_verb_there_is_help_and_no_success(run: Any) -> None:
    done = run()
    assert done.exit_code == 2
    assert "compare" in done.stdout
    assert done.stderr == ""


def test_values_may_begin_with_a_hyphen(run: Any) -> None:
    """As in other programs: the word behind an option is its value."""
    done = run("plan", "qwen3-8b", "--price", "-2")
    assert done.exit_code == 2
    assert "--price -2" in done.stderr


def test_words_that_stand_alone_may_stand_between_options(run: Any, tmp_path: Path) -> None:
    for arguments in (
        ("report", "a", "--out", "x", "b"),
        ("verify", "a", "--json", "b"),
        ("export", "--out", "x", "a"),
    ):
        assert "a: is no study" in run(*arguments).stderr


def test_a_switch_that_a_file_turned_on_can_be_turned_off(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "tiny"\nbalance_experts = "often"\n[data]\ntrain = "rows.jsonl"\n')
    asked = ("train", "--config", file, "--out", tmp_path / "out")
    assert "balance_experts" in run(*asked).stderr
    both = run(*asked, "--balance-experts=false", "--steps", "1", "--epochs", "1").stderr
    assert "balance_experts" not in both
    assert "not both" in both


def test_a_closed_pipe_is_no_crash() -> None:
    program = f"{sys.executable} -m lowregret.cli.main recipes | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_the_shipped_recipes_are_listed_with_their_verb(run: Any) -> None:
    found = {recipe["name"]: recipe for recipe in json.loads(run("recipes", "--json").stdout)}
    assert (found["demo"]["verb"], found["adapter"]["verb"], found["study_rank"]["verb"]) == (
        "compare",
        "train",
        "study",
    )
    assert all(len(recipe["sentence"]) > 20 for recipe in found.values())
    assert "demo" in run("recipes").stdout
