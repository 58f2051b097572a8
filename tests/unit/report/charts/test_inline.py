"""A chart on a page: one drawing for all themes, small, and nothing in it but text and shapes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lowregret.report.charts import compare
from lowregret.report.charts.drawing import save, svg
from lowregret.report.charts.inline import NARROW, inline
from lowregret.report.charts.plots import Axis, Series, curves, forest
from lowregret.report.reading import StudyRecords

HOSTILE = "</svg><script>alert(1)</script> \x1b[2J\u202e\uffff & \"quotes\" 'too'"
SERIES = [Series(f"rank {i}", [(1.0, 2.0), (2.0, 1.5), (3.0, 1.0 + 0.1 * i)], i / 2, dots=True) for i in range(3)]


def drawings(source: str) -> list[ElementTree.Element]:
    """The wide one and the narrow one."""
    return list(ElementTree.fromstring(f"<both>{source}</both>"))


def test_a_chart_is_drawn_wide_and_narrow_with_the_same_words() -> None:
    wide, narrow = drawings(inline(curves(SERIES, Axis("x"), Axis("y"), "three curves").to_dict(), "a"))
    assert (wide.get("class"), narrow.get("class")) == ("wide", "narrow")
    assert float(narrow.get("width", "")) == NARROW < float(wide.get("width", ""))
    assert {"rank 0", "rank 1", "rank 2", "x", "y"} <= {text.text for text in wide.iter("text")}
    assert {text.text for text in narrow.iter("text")} <= {text.text for text in wide.iter("text")}


def test_what_marks_say_is_in_the_wide_one_and_its_places_are_in_both() -> None:
    wide, narrow = drawings(inline(curves(SERIES, Axis("x"), Axis("y"), "three curves").to_dict(), "a"))
    said = [title.text for title in wide.iter("title")]
    assert said[:3] == ["rank 0: 2 at 1", "rank 0: 1.5 at 2", "rank 0: 1 at 3"]
    assert len(said) == 9
    assert not list(narrow.iter("title"))
    dots = [node.get("d", "") for node in narrow.iter("path") if node.get("class") == "tipped dots"]
    assert [len(re.findall(r"M[\d.]+,[\d.]+h0", path)) for path in dots] == [3, 3, 3], "a path a curve"


def test_marks_of_their_own_shapes_keep_their_order_on_a_phone(study: StudyRecords) -> None:
    wide, narrow = drawings(inline(compare.loss_against_steps(study).to_dict(), "a"))
    groups = [node for node in narrow.iter() if "tipped" in node.get("class", "").split()]
    places = [len(node) if node.tag == "g" else max(1, node.get("d", "").count("h0")) for node in groups]
    assert sum(places) == len(list(wide.iter("title"))) == 12


def test_colours_are_the_pages(study: StudyRecords) -> None:
    source = inline(compare.loss_against_learning_rate(study).to_dict(), "a")
    assert not re.findall(r"#[0-9a-fA-F]{3,6}\b(?!\))", source)
    assert {"var(--method-0)", "var(--method-1)", "var(--method-2)", "var(--muted)"} <= set(
        re.findall(r"var\([^)]*\)", source)
    )


def test_drawings_of_one_page_share_no_name() -> None:
    spec = curves(SERIES, Axis("x"), Axis("y", high=1.2), "three curves").to_dict()
    source = inline(spec, "a") + inline(spec, "b")
    names = re.findall(r'id="([^"]+)"', source)
    assert len(names) == len(set(names)) == 4, "one clip a drawing, whatever the curves"
    assert set(re.findall(r"url\(#([^)]+)\)", source)) == set(names)


def test_a_text_with_a_halo_is_said_once() -> None:
    wide, _ = drawings(inline(curves(SERIES, Axis("x"), Axis("y"), "three curves").to_dict(), "a"))
    assert [text.text for text in wide.iter("text")].count("rank 1") == 1
    assert 'paint-order="stroke"' in ElementTree.tostring(wide, encoding="unicode")


def test_what_is_hostile_is_text() -> None:
    rows = [(HOSTILE, 0.5, 0.25, 0.75), ("b", 0.1, 0.0, 0.2)]
    source = inline(forest(rows, "t", "d").to_dict(), "a")
    assert "<script" not in source
    assert "\x1b" not in source
    assert "\u202e" not in source
    tags = {node.tag for drawing in drawings(source) for node in drawing.iter()}
    assert tags <= {"svg", "g", "path", "line", "text", "circle", "rect", "title", "defs", "clipPath"}
    assert not re.findall(r"\s(?:on\w+|style|href|xlink:href)=", re.sub(r">[^<]*<", "><", source))


def test_panels_stand_below_each_other_on_a_phone(study: StudyRecords) -> None:
    wide, narrow = drawings(inline(compare.cost(study).to_dict(), "a"))
    heights = [float(drawing.get("height", "")) for drawing in (wide, narrow)]
    assert heights[1] > 1.8 * heights[0]
    assert float(narrow.get("width", "")) <= NARROW + 1


@pytest.mark.parametrize("kind", ["regret_chart", "loss_against_learning_rate", "loss_against_steps", "cost"])
def test_it_is_a_fraction_of_what_vega_writes(study: StudyRecords, kind: str) -> None:
    spec = getattr(compare, kind)(study).to_dict()
    assert len(inline(spec, "a")) < 1.3 * len(compare.svg(spec)), "two drawings, for little more than one"


@pytest.mark.parametrize("theme", ["light", "page"])
def test_what_is_no_text_in_xml_is_drawn_as_text(theme: str, tmp_path: Path) -> None:
    """vl-convert 1.9 ends the process on a control character."""
    named = "".join(chr(code) for code in (*range(32), 0x7F, 0x9B, 0xD800, 0xDCFF, 0xFFFE, 0xFFFF))
    chart = forest([(named, 0.5, 0.25, 0.75)], "t", "d")
    text = svg(chart, theme)  # type: ignore[arg-type]
    ElementTree.fromstring(text)
    assert "\\x00\\x01" in text
    save(chart, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
