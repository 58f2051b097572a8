"""Figures as files."""

from __future__ import annotations

import shutil
from pathlib import Path

from lowregret.report.figure_files import write_figures


def test_figures_of_two_studies_of_one_question_are_both_kept(every_study: Path, tmp_path: Path) -> None:
    shutil.copytree(every_study / "early", tmp_path / "elsewhere")
    files = write_figures([every_study / "early", tmp_path / "elsewhere"], tmp_path / "figures")
    assert len({file.name for file in files}) == len(files) == len(list((tmp_path / "figures").iterdir()))
    assert {file.name for file in files} >= {"early-curves.svg", "elsewhere-early-curves.svg"}
