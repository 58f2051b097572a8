"""Every figure compiles, offline, and shows what it must."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.report.charts import compare
from lowregret.report.charts.curves import curve
from lowregret.report.charts.lag import lag_chart
from lowregret.report.charts.theme import config
from lowregret.report.reading import StudyRecords
from lowregret.runs.verdict import Lag


def texts(svg: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def described(svg: str, mark: str) -> int:
    """Marks of a kind that Vega describes to screen readers: one for each datum."""
    return len(re.findall(rf'aria-roledescription="{mark}"', svg))


def rows(chart: compare.Chart, mark: str = "") -> list[dict[str, Any]]:
    """The data of a layered chart's layers, those of one kind of mark if one is named."""
    spec = chart.to_dict()
    layers = [layer for layer in spec["layer"] if mark in ("", layer["mark"]["type"])]
    return [row for layer in layers for row in spec["datasets"][layer["data"]["name"]]]


def test_rates_show_brackets_base_and_every_kind_of_end(study: StudyRecords) -> None:
    svg = compare.svg(compare.loss_against_learning_rate(study))
    said = texts(svg)
    assert "learning rate (log scale)" in said
    assert "held-out loss (nats per supervised token)" in said
    assert {"diverged", "pruned", "failed"} <= set(said)
    assert "above the scale" not in said
    assert {"LoRA (rank 16): best at 1e-3", "LoRA (rank 1): best at 8e-4", "Full fine-tuning: best at 3e-4"} <= set(
        said
    )
    assert any(text.startswith("before training: 1.9213") for text in said)
    assert described(svg, "tick") == 6, "both ends of three brackets"
    assert described(svg, "line mark") == 3


def test_rates_draw_each_trial_once_in_its_place(study: StudyRecords) -> None:
    chart = compare.loss_against_learning_rate(study)
    drawn = [(row["method"], row["rate"], row["loss"]) for row in rows(chart, "line")]
    finished = [t for t in study.trials if t.seed == 0 and t.status == "finished"]
    assert drawn == [(study.label(t.method), t.learning_rate, t.test_nll) for t in finished]
    ends = [row for row in rows(chart) if "outcome" in row]
    others = [t for t in study.trials if t.status != "finished"]
    assert [(row["rate"], row["outcome"]) for row in ends] == [(t.learning_rate, t.status) for t in others]


def test_steps_show_training_lines_and_held_out_points(study: StudyRecords) -> None:
    svg = compare.svg(compare.loss_against_steps(study))
    said = texts(svg)
    assert {"optimizer steps", "loss (nats per supervised token)"} <= set(said)
    assert any(text.startswith("Full fine-tuning") and "1.3020" in text for text in said)
    assert described(svg, "line mark") == 3
    assert described(svg, "point") == 3 * 4 + 3, "the base and three evaluations of three methods, and the key"


def test_the_lag_is_an_arrow_between_the_curves_at_the_loss_of_the_one_behind(
    study: StudyRecords, studies: ModuleType
) -> None:
    assert "× the steps" not in " ".join(texts(compare.svg(lag_chart(study)))), "no factor, no arrow"
    told = replace(study, verdict=studies.verdict(lag=Lag(factor=1.02, extrapolated=True)))
    chart = lag_chart(told)
    arrow = rows(chart, "rule")[-1]
    behind, ahead = (curve(study, name).test for name in ("lora:16", "full"))
    assert (arrow["end"], arrow["loss"]) == behind[-1]
    assert ahead[-2][0] < arrow["step"] < ahead[-1][0]
    assert "1× the steps" in texts(compare.svg(chart))


def test_cost_shows_values_with_units_and_bars_from_zero(study: StudyRecords) -> None:
    chart = compare.cost(study)
    said = texts(compare.svg(chart))
    assert {"19 s", "631 MB", "983 k", "3.96 MB", "412 kB"} <= set(said)
    assert {"Time of one trial", "Peak memory", "Trainable parameters", "Checkpoint size"} <= set(said)
    for panel in chart.to_dict()["concat"]:
        scales = [layer["encoding"]["x"]["scale"] for layer in panel["layer"] if "scale" in layer["encoding"]["x"]]
        assert scales
        assert all(scale["domain"][0] == 0 and "type" not in scale for scale in scales)


def test_regret_shows_intervals_zero_and_tolerance(study: StudyRecords) -> None:
    chart = compare.regret_chart(study)
    said = texts(compare.svg(chart))
    assert "regret (nats per supervised token)" in said
    assert "LoRA (rank 16): +0.0021 (−0.0012 to +0.0054)" in said
    assert "tolerance: 0.0065" in said
    assert [row["end"] for row in rows(chart, "rect")] == [0.00651], "the shade ends at the tolerance"
    assert [(row["regret"], row["end"]) for row in rows(chart, "rule") if "end" in row] == [
        (-0.0012, 0.0054),
        (0.0402, 0.0531),
    ]
    assert not any("Full fine-tuning" in text for text in said), "full fine-tuning has no regret of its own"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_methods_take_the_colours_of_the_theme(study: StudyRecords, theme: str) -> None:
    svg = compare.svg(compare.regret_chart(study), theme)  # type: ignore[arg-type]
    first, second, *_ = config(theme)["range"]["category"]  # type: ignore[arg-type]
    assert first in svg
    assert second in svg


def test_a_figure_is_saved_as_svg_and_png(study: StudyRecords, tmp_path: Path) -> None:
    chart = compare.regret_chart(study)
    for suffix, start in ((".svg", b"<svg"), (".png", b"\x89PNG")):
        path = tmp_path / f"regret{suffix}"
        compare.save(chart, path)
        assert path.read_bytes().startswith(start)
    assert chart.to_dict().get("config", {}).get("background") is None, "themes go on copies"
