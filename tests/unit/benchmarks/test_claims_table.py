"""The table of claims on several bases: every claim of any column, and what is not there is left empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import claims_table
from benchmarks.claims_table import main

from lowregret.analysis.fits import Estimate
from lowregret.questions.claim import Statement
from lowregret.questions.judge import Claim, Claims
from lowregret.runs.atomic import read_record, write_json


def study(folder: Path, key: str, number: str, value: float | None) -> None:
    stated = Statement(key=key, number=number, sentence=f"About {key}.", statistic="x", unit="ratio", low=5, high=20)
    found = None if value is None else Estimate(value=value, low=value / 2, high=value * 2, n=3)
    claim = Claim(statement=stated, ruling="open" if found is None else "holds", estimate=found)
    folder.mkdir(parents=True)
    write_json(folder / "claims.json", Claims(kind="rank", claims=(claim,), noise_nats=None, trials={}))


def test_every_claim_of_any_column_has_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged anew: here by a judge that finds what it has found before."""
    monkeypatch.setattr(claims_table, "read_evidence", lambda folder: folder)
    monkeypatch.setattr(claims_table, "judge_study", lambda folder: read_record(Claims, folder / "claims.json"))
    study(tmp_path / "a" / "late", "late", "3.10", 6.0)
    study(tmp_path / "a" / "early", "early", "3.2", 7.0)
    study(tmp_path / "b" / "early", "early", "3.2", 8.0)
    study(tmp_path / "b" / "late", "late", "3.10", None)
    study(tmp_path / "b" / "never", "never", "3.1", None)
    assert main([f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| claim of the post | bound | first | second |"
    assert lines[2].startswith(
        "| 3.2 About early. | 5× to 20× | 7× (3.5× to 14×): **holds** | 8× (4× to 16×): **holds**"
    )
    assert lines[3] == "| 3.10 About late. | 5× to 20× | 6× (3× to 12×): **holds** | not measured |"
    assert lines[4] == "| **together** | | 2 holds, 0 does not hold, 0 open | 1 holds, 0 does not hold, 0 open |"


def test_a_wrong_call_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main([str(tmp_path)]) == 2
    assert main([f"first={tmp_path / 'none'}"]) == 2
    assert "no such folder" in capsys.readouterr().err
