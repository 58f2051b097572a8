"""`lowregret bank add` to a bank that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowregret.analysis.forecast import entry
from lowregret.analysis.forecast.banks import bundled_bank


@pytest.fixture(autouse=True)
def finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder holds the comparison that the bundled bank begins with, of a run of its own."""
    first = bundled_bank()[0].model_copy(update={"identity": "mine"})
    monkeypatch.setattr(entry, "finished_entry", lambda _: first)


def test_the_remedy_for_a_bank_of_another_version_is_one(run: Any, tmp_path: Path) -> None:
    bank = tmp_path / "own.jsonl"
    bank.write_text('{"version": 2}\n')
    refused = run("bank", "list", "--bank", bank)
    assert refused.exit_code == 2
    assert f"lowregret bank add RUN --bank {bank}" in refused.stderr
    ended = run("bank", "add", "x", "--bank", bank, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == {"bank": str(bank), "comparisons": 1}
    assert f"kept as {bank}.unreadable" in ended.stderr
    assert Path(f"{bank}.unreadable").read_text() == '{"version": 2}\n'
    listed = run("bank", "list", "--bank", bank, "--json")
    assert json.loads(listed.stdout)["own"] == 1
    again = run("bank", "add", "x", "--bank", bank)
    assert again.exit_code == 0
    assert not again.stderr
