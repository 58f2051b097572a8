"""The ordinary study, written once, and the module that writes others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lowregret.report.pages.html import write_report
from lowregret.report.reading import StudyRecords, load_study


@pytest.fixture(scope="session")
def studies(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """studies.py beside this file."""
    return load_module(Path(__file__).with_name("studies.py"))


@pytest.fixture(scope="session")
def folder(studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ordinary study's folder: low regret of LoRA 16, every kind of trial."""
    found: Path = studies.write_study(tmp_path_factory.mktemp("study"))
    return found


@pytest.fixture(scope="session")
def study(folder: Path) -> StudyRecords:
    return load_study(folder)


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    """The ordinary study's page."""
    return write_report(folder).read_text(encoding="utf-8")
