"""Every question draws its studies, with words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lowregret.analysis.place import Place
from lowregret.questions.registry import QUESTIONS
from lowregret.questions.rl.figures import _wide
from lowregret.report.charts.drawing import svg


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_question_has_figures_with_words(drawn: Any, kind: str) -> None:
    found = drawn(kind)
    assert found
    assert len({figure.key for figure, _ in found}) == len(found)
    for figure, spec in found:
        assert "Nothing finished" not in json.dumps(spec) or kind == "rank"
        assert len(figure.caption) > 60, "a caption says what to see"
        assert spec["description"]
        for theme in ("light", "dark"):
            text = svg(spec, theme)
            assert "NaN" not in text
            assert "Infinity" not in text


@pytest.mark.parametrize(("give", "said"), [(0.0, "8×"), (1.0, "8× (to a factor of 2)")])
def test_a_range_of_rates_is_told_with_what_is_open_of_it(give: float, said: str) -> None:
    assert _wide(Place(3.0, give)) == said
