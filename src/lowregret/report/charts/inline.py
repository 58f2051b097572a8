"""A chart as a part of a page: static SVG in the page's own colours, drawn for a wide and for a narrow screen.

Colours are the variables of the page's style sheet, so that light, dark and print share one drawing. What Vega adds for
its own scripts is left out; a mark that a chart gave a description has it as its `title`, which a browser shows under
the pointer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from lowregret.foreign_text import shown
from lowregret.report.charts.drawing import WIDTH, svg

NARROW = 350
"""Pixels: what a phone has room for."""
_SPACE = 34
"""Between panels that stand side by side."""
_SVG = "{http://www.w3.org/2000/svg}"
_LEFT_OUT = frozenset(
    ("class", "role", "aria-label", "aria-roledescription", "aria-hidden", "pointer-events", "font-family")
)
_DEFAULTS = frozenset(
    (("opacity", "1"), ("font-weight", "normal"), ("x2", "0"), ("y2", "0"), ("transform", "translate(0,0)"))
)
_GEOMETRY = frozenset(("d", "transform", "x2", "y2", "width", "height"))
_INHERITED = ("fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-weight", "text-anchor")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
_CIRCLE = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0$")
_PLACE = re.compile(r"translate\(([^,]+),([^)]+)\)$")
_CLIP = re.compile(r'(id="|url\(#)clip(\d+)')
_NO_XML = re.compile("[\ufffe\uffff]")


def inline(spec: dict[str, Any], key: str) -> str:
    """A chart's specification as two drawings, of classes `wide` and `narrow`, of which a page shows one.

    `key` tells the drawings of one page apart. Both have the chart's description for those who do not see it.
    """
    return "".join(
        _drawing(_fitted(spec, width), f"{key}-{kind}", kind) for kind, width in (("wide", WIDTH), ("narrow", NARROW))
    )


def _fitted(spec: dict[str, Any], width: int) -> dict[str, Any]:
    """A copy of this width; panels stand side by side as far as there is room."""
    if "concat" not in spec:
        return {**spec, "width": width}
    columns = 2 if width > NARROW else 1
    each = (width - _SPACE * (columns - 1)) / columns
    panels = [{**panel, "width": each - 5} for panel in spec["concat"]]
    return {**spec, "columns": columns, "concat": panels}


def _drawing(spec: dict[str, Any], key: str, kind: str) -> str:
    # Control characters are no XML, and other people's text may have them.
    root = ElementTree.fromstring(_NO_XML.sub("�", shown(svg(spec, "page"))))
    found = ElementTree.Element(
        "svg",
        {"class": kind, "role": "img", "aria-label": shown(str(spec.get("description", ""))), "fill": "none"}
        | {name: root.attrib[name] for name in ("width", "height", "viewBox")},
    )
    for child in root:
        found.extend(_cleaned(child))
    return _CLIP.sub(rf"\g<1>{key}-\2", ElementTree.tostring(found, encoding="unicode"))


def _cleaned(node: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """A node without what draws nothing; in place of a group that says nothing, what is in it."""
    tag = node.tag.removeprefix(_SVG)
    if node.get("display") == "none" or (tag == "path" and not _is_drawn(node)):
        return
    found = ElementTree.Element(tag, _attributes(node))
    found.text = node.text if tag == "text" else None
    for child in node:
        found.extend(_cleaned(child))
    if tag == "g":
        _hoist(found)
        if not found.attrib or not len(found):
            yield from found
            return
    elif told := node.get("aria-label"):
        ElementTree.SubElement(found, "title").text = told
    _simplify(found)
    yield found


def _is_drawn(node: ElementTree.Element) -> bool:
    return bool(node.get("d")) and ("fill" in node.attrib or "stroke" in node.attrib or "clip" in node.get("class", ""))


def _attributes(node: ElementTree.Element) -> dict[str, str]:
    return {
        name: _NUMBER.sub(_rounded, value) if name in _GEOMETRY else value.removesuffix("px")
        for name, value in node.attrib.items()
        if name not in _LEFT_OUT and (name, value) not in _DEFAULTS
    }


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _hoist(group: ElementTree.Element) -> None:
    """What all that is drawn in a group shares is said once, at the group."""
    children = list(group)
    if len(children) < 2:
        return
    for name in _INHERITED:
        values = {child.get(name) for child in children}
        if len(values) == 1 and None not in values and name not in group.attrib:
            group.set(name, str(values.pop()))
            for child in children:
                del child.attrib[name]


def _simplify(mark: ElementTree.Element) -> None:
    """A path that is a circle becomes one."""
    circle, place = _CIRCLE.match(mark.get("d", "")), _PLACE.match(mark.get("transform", ""))
    if circle and place:
        del mark.attrib["d"], mark.attrib["transform"]
        mark.tag = "circle"
        mark.attrib |= {"cx": place[1], "cy": place[2], "r": circle[1]}
