"""The frame of every page: one file that needs no network, with its style, its script and its figures.

A content security policy that names the hashes of the page's own style and script keeps the browser from loading or
running anything else.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from lowregret.report.charts.theme import COLOURS
from lowregret.report.pages.templates import render
from lowregret.strict_json import to_json


def document(title: str, version: str, body: Markup, made_from: str = "the records in this folder") -> str:
    """A page that needs no network: its style, its script and its body."""
    style, script = _own()
    own = f"script-src {_hash(script)}; style-src {_hash(style)}"
    page = render(
        "document",
        title=title,
        version=version,
        made_from=made_from,
        body=body,
        style=Markup(style),  # our own files
        script=Markup(script),
        policy=f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'",
    )
    return str(page)


@cache
def _own() -> tuple[str, str]:
    """The style and the script."""
    here = files("lowregret.report.pages")
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return f"{_colours()}{style}", script


def _colours() -> str:
    """The roles of the theme as variables: light on paper, whatever the screen shows."""
    light, dark = (";".join(f"--{role}:{pair[index]}" for role, pair in COLOURS.items()) for index in (0, 1))
    return (
        f":root{{color-scheme:light dark;{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def section(key: str, title: str, body: Markup) -> Markup:
    """A part of a page under a heading."""
    return render("section", key=key, title=title, body=body)


def joined(parts: list[Markup]) -> Markup:
    """Parts of a page, one after the other."""
    return Markup("").join(parts)


def figure(key: str, title: str, spec: dict[str, Any], caption: str, name: str = "") -> Markup:
    """A figure, of a chart's specification. `key` is its own on the page, `name` that of the file it is saved as."""
    from lowregret.report.charts.inline import inline  # altair takes half a second to import

    drawing = Markup(inline(spec, key))  # escaped by the writer of XML
    said = spec.get("description", title)
    return render("figure", key=key, title=title, said=said, drawing=drawing, caption=caption, name=name or key)


def reproduce(command: str, spec: Any) -> Markup:
    """The way to do it again: the command, and the spec that it stands for."""
    return render("reproduce", command=command, spec=to_json(spec, indent=2, ensure_ascii=False))
