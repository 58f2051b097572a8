"""Studies that nobody trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake_studies(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """fake_studies.py of the tests of the search."""
    return load_module(Path(__file__).parents[1] / "study" / "fake_studies.py")
