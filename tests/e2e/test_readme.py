"""The README's commands and code, and the code in docs/, run as they stand."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The `lowregret …` lines without placeholders (words in capitals), continuation lines joined."""
    lines = [line for kind, block in BLOCKS if not kind for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line)[1:] for line in lines if line.startswith("lowregret ")]
    return [command for command in found if not any(re.fullmatch(r"[A-Z_.]*[A-Z]{3,}[A-Za-z_.]*", w) for w in command)]


def test_the_commands_run_and_agree(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = commands()
    assert {command[0] for command in ran} >= {"train", "eval"}
    outputs = {command[0]: run(*command) for command in ran}
    assert all(ended.exit_code == 0 for ended in outputs.values()), outputs
    record = json.loads((tmp_path / "runs/one/trial.json").read_text())
    assert json.loads(outputs["eval"].stdout)["nll"] == record["test_nll"]


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    exec(compile(code, "README.md", "exec"), {})
    assert {"low_regret", "regret", "inconclusive"} & set(capsys.readouterr().out.split())
    assert (tmp_path / "runs/python/report.html").exists()
    assert (tmp_path / "runs/python-one/adapter/adapter_model.safetensors").exists()


ENGLISH = sorted(page for page in (ROOT / "docs").rglob("*.md") if not page.is_relative_to(ROOT / "docs/zh"))
"""The Chinese pages have the same code, which tests/unit/tools/test_translations.py holds them to."""


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.stem)
def test_the_code_in_docs_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(code, page.name, "exec"), {})


@pytest.mark.parametrize("page", ["docs/start.md", "docs/zh/start.md"])
def test_the_plan_that_is_shown_is_the_plan(page: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line, up to an ellipsis."""
    blocks = re.findall(r"^```\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    typed, shown = next(pair for pair in itertools.pairwise(blocks) if pair[0].startswith("lowregret plan "))
    monkeypatch.setenv("COLUMNS", "110")
    ended = run(*shlex.split(typed)[1:])
    assert ended.exit_code == 0, ended.stderr
    printed = " ".join(ended.stdout.split())
    for line in shown.splitlines():
        assert " ".join(line.partition("…")[0].split()) in printed, line
