"""Every question draws its studies, with words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowregret.questions.evidence import read_evidence
from lowregret.questions.registry import QUESTIONS, figures
from lowregret.report.charts.drawing import svg


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_question_has_figures_with_words(every_study: Path, kind: str) -> None:
    found = figures(read_evidence(every_study / kind))
    assert found
    assert len({drawn.key for drawn in found}) == len(found)
    for drawn in found:
        assert "Nothing finished" not in json.dumps(drawn.chart.to_dict()) or kind == "rank"
        assert len(drawn.caption) > 60, "a caption says what to see"
        assert drawn.chart.to_dict()["description"]
        for theme in ("light", "dark"):
            text = svg(drawn.chart, theme)
            assert "NaN" not in text
            assert "Infinity" not in text
