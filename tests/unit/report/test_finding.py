"""Which studies are found, and what is said of those that are not finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import RecordsError
from lowregret.report.finding import find_studies


def test_a_folder_without_studies_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="is no study"):
        find_studies([tmp_path], lambda line: None)


def test_unfinished_studies_are_left_out_with_what_finishes_them(every_study: Path, tmp_path: Path) -> None:
    for kind in ("rank", "early", "layers"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "study.json").write_bytes((every_study / kind / "study.json").read_bytes())
    (tmp_path / "layers" / "claims.json").touch()
    said: list[str] = []
    assert find_studies([tmp_path], said.append) == [tmp_path / "layers"]
    finish = "not finished. Run the same command again: lowregret study fake"
    assert said == [f"{tmp_path / kind}: left out, because it is {finish}" for kind in ("early", "rank")]
    (tmp_path / "layers" / "claims.json").unlink()
    with pytest.raises(RecordsError, match=r"rank: is not finished\. Run the same command again: lowregret study fake"):
        find_studies([tmp_path], said.append)


def test_a_comparison_of_which_there_are_pilots_alone_is_finished_by_compare(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "spec.json").write_text('{"command": "lowregret forecast --budget 10% --model tiny --out x"}')
    with pytest.raises(RecordsError, match=r"is not finished\. Run this: lowregret compare --model tiny --out x"):
        find_studies([tmp_path], lambda line: None, compares=True)
