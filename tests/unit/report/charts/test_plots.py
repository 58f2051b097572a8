"""Curves with their names, and values with intervals."""

from __future__ import annotations

import itertools

from lowregret.report.charts.drawing import svg
from lowregret.report.charts.plots import Axis, Series, curves, forest


def test_names_at_the_ends_of_curves_never_overlap() -> None:
    series = [Series(f"rank {i}", [(1.0, 2.0), (2.0, 1.0 + 1e-6 * i)], i / 9) for i in range(10)]
    chart = curves(series, Axis("x"), Axis("y"), "ten curves that end together").to_dict()
    marks = [layer for layer in chart["layer"] if "name" in layer["mark"].get("style", [])]
    places = sorted(layer["encoding"]["y"]["value"] for layer in marks)
    assert len(places) == 10
    assert all(b - a >= 14.9 for a, b in itertools.pairwise(places))
    assert 0 <= places[0] <= places[-1] <= chart["height"]


def test_nothing_to_draw_says_so() -> None:
    for chart in (curves([], Axis("x"), Axis("y"), "none"), forest([("a", None, None, None)], "t", "none")):
        assert "Nothing finished" in svg(chart)
