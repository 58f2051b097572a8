"""A chart as a part of a page: static SVG in the page's own colours, drawn for a wide and for a narrow screen.

Colours are the variables of the page's style sheet, so that light, dark and print share one drawing. What Vega adds for
its own scripts is left out. A mark that a chart gave a description has it as its `title`, which a browser shows under
the pointer; the narrow drawing has the same marks in the same order, of class `tipped` (dots of one size as the points
of one path, of class `dots`), and leaves their words to the wide one and to the page's script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from lowregret.report.charts.drawing import WIDTH, svg

NARROW = 350
"""Pixels: what a phone has room for."""
_SPACE = 34
"""Between panels that stand side by side."""
_PADDING = 5
"""Around a drawing: Vega's own."""
_SVG = "{http://www.w3.org/2000/svg}"
_LEFT_OUT = frozenset(
    (
        "class",
        "role",
        "aria-label",
        "aria-roledescription",
        "aria-hidden",
        "pointer-events",
        "font-family",
        "stroke-miterlimit",
    )
)
_DEFAULTS = frozenset(
    (
        ("opacity", "1"),
        ("font-weight", "normal"),
        ("text-anchor", "start"),
        ("stroke-width", "1"),
        ("x", "0"),
        ("y", "0"),
        ("x2", "0"),
        ("y2", "0"),
        ("transform", "translate(0,0)"),
    )
)
_GEOMETRY = frozenset(("d", "transform", "x2", "y2", "width", "height"))
_HALO = ("stroke", "stroke-width")
_SHARED = (
    *_HALO,
    "fill",
    "stroke-dasharray",
    "stroke-opacity",
    "font-size",
    "font-weight",
    "text-anchor",
    "paint-order",
    "class",
)
"""What a mark takes from its group. The class is looked for at both."""
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
_CIRCLE = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0$")
_PLACE = re.compile(r"translate\(([^,]+),([^)]+)\)$")


def inline(spec: dict[str, Any], key: str) -> str:
    """A chart's specification as two drawings, of classes `wide` and `narrow`, of which a page shows one.

    `key` tells the drawings of one page apart.
    """
    return _drawing(spec, WIDTH, f"{key}-w", "wide") + _drawing(spec, NARROW, f"{key}-n", "narrow")


def _fitted(spec: dict[str, Any], width: int) -> dict[str, Any]:
    """A copy of this width; panels stand side by side as far as there is room."""
    if "concat" not in spec:
        return {**spec, "width": width}
    columns = 2 if width > NARROW else 1
    each = (width - 2 * _PADDING - _SPACE * (columns - 1)) / columns
    panels = [{**panel, "width": each} for panel in spec["concat"]]
    return {**spec, "columns": columns, "concat": panels}


def _drawing(spec: dict[str, Any], width: int, key: str, kind: str) -> str:
    root = ElementTree.fromstring(svg(_fitted(spec, width), "page"))
    size = {name: root.attrib[name] for name in ("width", "height", "viewBox")}
    found = Element("svg", {"class": kind, "aria-hidden": "true", "fill": "none", **size})
    for child in root:
        found.extend(_cleaned(child, titles=kind == "wide"))
    _share_clips(found, key)
    for group in list(found.iter("g")):
        _join_groups(group)
        _join_halos(group)
        _gather(group)
    if kind == "narrow":
        for group in found.iter("g"):
            _draw_dots(group)
    return ElementTree.tostring(found, encoding="unicode").replace(" />", "/>")


def _cleaned(node: Element, *, titles: bool) -> Iterator[Element]:
    """A node without what draws nothing; in place of a group that says nothing, what is in it."""
    tag = node.tag.removeprefix(_SVG)
    if node.get("display") == "none" or (tag == "path" and not _is_drawn(node)):
        return
    found = Element(tag, _attributes(node))
    found.text = node.text if tag == "text" else None
    for child in node:
        found.extend(_cleaned(child, titles=titles))
    if tag == "g" and (not found.attrib or not len(found)):
        yield from found
        return
    if tag != "g" and (told := node.get("aria-label")):
        if titles:
            SubElement(found, "title").text = told
        else:
            found.set("class", "tipped")
    _simplify(found)
    yield found


def _is_drawn(node: Element) -> bool:
    return bool(node.get("d")) and ("fill" in node.attrib or "stroke" in node.attrib)


def _attributes(node: Element) -> dict[str, str]:
    found = {
        name: _NUMBER.sub(_rounded, value) if name in _GEOMETRY else value.removesuffix("px")
        for name, value in node.attrib.items()
        if name not in _LEFT_OUT and (name, value) not in _DEFAULTS
    }
    if "stroke" not in found:
        found.pop("stroke-width", None)
    if node.tag == f"{_SVG}line" and "opacity" in found:
        found["stroke-opacity"] = found.pop("opacity")
    return found


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _gather(parent: Element) -> None:
    """What marks that follow each other share is said once, at a group around them."""
    runs: list[tuple[list[Element], set[tuple[str, str]]]] = []
    for child in parent:
        own = {(name, child.attrib[name]) for name in _SHARED if name in child.attrib} if child.tag != "g" else set()
        marks, shared = runs[-1] if runs else ([], set())
        # A second mark may share less than all that the first one has; a third does not make it less again.
        if marks and marks[0].tag == child.tag and shared & own and (len(marks) == 1 or shared <= own):
            runs[-1] = ([*marks, child], shared & own)
        else:
            runs.append(([child], own))
    for marks, shared in runs:
        if len(marks) > 1:
            group = Element("g", dict(sorted(shared)))
            parent.insert(list(parent).index(marks[0]), group)
            for mark in marks:
                parent.remove(mark)
                group.append(mark)
                for name, _ in shared:
                    del mark.attrib[name]
            _join_paths(group)


def _join_groups(parent: Element) -> None:
    """Groups of one kind that follow each other are one."""
    kept: Element | None = None
    for child in list(parent):
        if kept is not None and child.tag == kept.tag == "g" and child.attrib == kept.attrib:
            kept.extend(child)
            parent.remove(child)
        else:
            kept = child


def _join_paths(group: Element) -> None:
    """Paths that differ in their places alone, such as the lines of a grid, are one."""
    paths = list(group)
    if any(path.tag != "path" or path.attrib.keys() != {"d"} or len(path) for path in paths):
        return
    group.tag = "path"
    group.set("d", "".join(path.attrib["d"] for path in paths))
    for path in paths:
        group.remove(path)


def _draw_dots(group: Element) -> None:
    """Filled dots of one size are the points of one path, whose lines have no length and round ends."""
    dots = list(group)
    sizes = {dot.attrib["r"] for dot in dots if dot.tag == "circle" and dot.attrib.keys() == {"cx", "cy", "r"}}
    same = len(sizes) == 1 and all(dot.tag == "circle" for dot in dots)
    if not same or group.attrib.keys() != {"class", "fill"}:
        return
    group.tag = "path"
    group.attrib = {
        "class": "tipped dots",
        "stroke": group.attrib["fill"],
        "stroke-width": f"{2 * float(sizes.pop()):g}",
        "stroke-linecap": "round",
        "d": "".join(f"M{dot.attrib['cx']},{dot.attrib['cy']}h0" for dot in dots),
    }
    for dot in dots:
        group.remove(dot)


def _simplify(mark: Element) -> None:
    """A path that is a circle becomes one, a line a path, and a text that is only moved says where it stands."""
    circle, place = _CIRCLE.match(mark.get("d", "")), _PLACE.match(mark.get("transform", "translate(0,0)"))
    if place and mark.tag == "line":
        across, down = mark.attrib.pop("x2", "0"), mark.attrib.pop("y2", "0")
        end = f"h{across}" if down == "0" else f"v{down}" if across == "0" else f"l{across},{down}"
        mark.tag, mark.attrib["d"] = "path", f"M{place[1]},{place[2]}{end}"
    elif place and circle:
        mark.tag = "circle"
        mark.attrib |= {"cx": place[1], "cy": place[2], "r": circle[1]}
        del mark.attrib["d"]
    elif place and mark.tag == "text":
        mark.attrib |= {"x": place[1], "y": place[2]}
    else:
        return
    mark.attrib.pop("transform", None)


def _share_clips(drawing: Element, key: str) -> None:
    """One definition for all clips of one shape, under a name of this drawing's own: a page has many."""
    names: dict[str, str] = {}
    shapes: dict[str, str] = {}
    for parent in list(drawing.iter("defs")):
        for clip in list(parent):
            shape = "".join(ElementTree.tostring(child, encoding="unicode") for child in clip)
            own = clip.get("id", "")
            if shape in shapes:
                parent.remove(clip)
            else:
                shapes[shape] = f"{key}{len(shapes)}"
                clip.set("id", shapes[shape])
            names[f"url(#{own})"] = f"url(#{shapes[shape]})"
    for node in drawing.iter():
        if "clip-path" in node.attrib:
            node.set("clip-path", names[node.attrib["clip-path"]])


def _join_halos(group: Element) -> None:
    """A text drawn twice, at first in the paper's colour and wider, is one text that paints its outline first."""
    for under, over in zip(list(group), list(group)[1:], strict=False):
        same = under.tag == over.tag == "text" and under.text == over.text and "stroke" in under.attrib
        if same and all(under.get(name) == over.get(name) for name in ("x", "y", "transform")):
            group.remove(under)
            over.attrib |= {name: under.attrib[name] for name in _HALO} | {"paint-order": "stroke"}
