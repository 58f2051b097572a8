"""Studies that nobody trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.questions.evidence import read_evidence
from lowregret.questions.registry import QUESTIONS, figures, make_question

SMALL: dict[str, dict[str, Any]] = {
    "rank": {"ranks": [1, 4], "sizes": [8], "steps": 16},
    "learning-rate": {"ranks": [1, 4], "steps": 8},
    "short-runs": {"lengths": [10, 20], "steps": 20},
    "early": {"ranks": [1, 4], "steps": 8},
    "batch-size": {"batches": [4, 8], "examples": 16, "ranks": [4]},
    "layers": {"ranks": [4], "steps": 8},
    "capacity": {"ranks": [1, 4], "steps": 8, "people": 4},
    "compute": {"widths": [64], "ranks": [1, 16]},
    "invariance": {"steps": 8},
    "variants": {"steps": 8, "methods": ["lora:4", "lora:4:pissa", "lora:4:dora"]},
    "scaling": {"models": ["tiny-64", "tiny"], "ranks": [1], "steps": 8},
    "moe": {"steps": 8},
    "rl": {"ranks": [1, 4], "steps": 8},
}
"""Sizes that save time; a question without one is asked with its `--quick`."""


@pytest.fixture(scope="session")
def fake_studies(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """fake_studies.py of the tests of the search."""
    return load_module(Path(__file__).parent / "study" / "fake_studies.py")


@pytest.fixture(scope="session")
def every_study(fake_studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of each question that nobody trained."""
    folder = tmp_path_factory.mktemp("studies")
    for kind in QUESTIONS:
        question = make_question({"kind": kind, **SMALL.get(kind, {})}, quick=kind not in SMALL)
        fake_studies.make(folder / kind, question)
    return folder


@pytest.fixture(scope="session")
def drawn(every_study: Path) -> Callable[[str], list[tuple[Any, dict[str, Any]]]]:
    """By question the figures of its study, each with its specification.

    Drawn once for all tests: altair checks every part of a chart against the schema of Vega-Lite, which takes its time.
    """

    @cache
    def draw(kind: str) -> list[tuple[Any, dict[str, Any]]]:
        return [(figure, figure.chart.to_dict()) for figure in figures(read_evidence(every_study / kind))]

    return draw
