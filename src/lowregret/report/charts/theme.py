"""Colours and type of the figures and pages, light and dark.

Charts name roles (`style="reference"`, the `category` range) and never colours, so that one specification serves files
of either theme and pages. On a page a role is a variable of CSS, and the page's style sheet says what it is in the
light, in the dark and in print.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

Theme = Literal["light", "dark", "page"]

METHODS = 8
"""Methods of a compare that have a colour, a shape and dashes of their own; more begin again."""
RAMP = 20
"""Steps of the ramp of ranks."""

# Light, dark. The first eight were searched for (greedily, with exchanges) among colours of at least 3.3 : 1 against
# paper and panel, for the largest least distance in OKLab (Ottosson, 2020), as seen by normal eyes and, by the matrices
# of Machado, Oliveira and Fernandes (2009), by deuteranopes and protanopes.
_CATEGORY = (
    ("#0066bb", "#55aaee"),
    ("#cc5500", "#ee8844"),
    ("#880055", "#cc4488"),
    ("#7777ff", "#7766ee"),
    ("#6688aa", "#99eeff"),
    ("#883300", "#aa6600"),
    ("#bb3366", "#00ccaa"),
    ("#333399", "#ffdd00"),
)
# From the lowest rank to the highest, in even steps of OKLab's lightness: away from the paper, at 4.5 : 1 or more,
# since names are written in these colours, but not as far as the ink, which is full fine-tuning.
_RAMP = (
    ("#986603", "#bb7e00"),
    ("#a83f05", "#ef692d"),
    ("#a20b4b", "#fc6b94"),
    ("#791380", "#e783ed"),
    ("#461d96", "#baaffd"),
    ("#002985", "#81d3fd"),
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _between(stops: tuple[str, ...], place: float) -> str:
    """A colour at a place from 0 to 1 between stops."""
    index = min(int(place * (len(stops) - 1)), len(stops) - 2)
    part = place * (len(stops) - 1) - index
    pairs = ((int(stops[index][i : i + 2], 16), int(stops[index + 1][i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(low + part * (high - low)):02x}" for low, high in pairs)


def _ramp() -> dict[str, tuple[str, str]]:
    light, dark = zip(*_RAMP, strict=True)
    return {f"ramp-{step}": (_between(light, step / RAMP), _between(dark, step / RAMP)) for step in range(RAMP + 1)}


COLOURS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "paper": ("#ffffff", "#171a20"),
        "panel": ("#f5f6f8", "#1f242c"),
        "ink": ("#1b1f24", "#e6e9ee"),
        "muted": ("#59636e", "#9ba5b1"),
        "line": ("#dfe2e6", "#343b46"),
        "grid": ("#e7e9ec", "#2b313a"),
        "link": ("#0062a0", "#6cb8ea"),
        "good": ("#00775a", "#1fb890"),
        "bad": ("#b34700", "#f08a4b"),
        **{f"method-{index}": pair for index, pair in enumerate(_CATEGORY)},
        **_ramp(),
    }
)
"""Role → its colour in the light and in the dark. `line` and `grid` decorate: nothing is told by them."""


def colour(role: str, theme: Theme) -> str:
    """What a role is drawn in: a colour, or on a page the variable of that name."""
    return f"var(--{role})" if theme == "page" else COLOURS[role][theme == "dark"]


def ramp(shade: float | None) -> str:
    """The style of what is drawn at a place from 0 to 1 on the ramp; ink for None."""
    return "ink" if shade is None else f"ramp-{round(RAMP * min(max(shade, 0.0), 1.0))}"


def config(theme: Theme) -> dict[str, Any]:
    """The Vega-Lite configuration of a theme. On a page only marks that say so have words of their own."""
    ink, muted, grid, paper, good = (colour(role, theme) for role in ("ink", "muted", "grid", "paper", "good"))
    methods = [colour(f"method-{index}", theme) for index in range(METHODS)]
    ramps = {style: {"color": colour(style, theme)} for style in (f"ramp-{step}" for step in range(RAMP + 1))}
    own: dict[str, Any] = {"mark": {"aria": False}} if theme == "page" else {}
    return own | {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": methods},
        "axis": {
            "labelColor": muted,
            "titleColor": muted,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "gridColor": grid,
            "domainColor": grid,
            "tickColor": grid,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelColor": muted,
            "labelFontSize": 12,
            "symbolStrokeColor": muted,
            "symbolFillColor": "transparent",
            "symbolSize": 70,
        },
        "title": {"color": ink, "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 8},
        "style": {
            "label": {"color": ink, "fontSize": 12, "font": FONT},
            "value": {"color": ink, "fontSize": 12, "fontWeight": 600, "font": FONT},
            "note": {"color": muted, "fontSize": 11.5, "font": FONT},
            # Under a text, so that a line it crosses does not strike it through.
            "halo": {"color": paper, "fontSize": 12, "font": FONT, "stroke": paper, "strokeWidth": 4, "opacity": 0.85},
            "reference": {"color": muted, "strokeWidth": 1, "strokeDash": [4, 3]},
            "zero": {"color": ink, "strokeWidth": 1},
            "limit": {"color": good, "strokeWidth": 1.5, "strokeDash": [5, 3]},
            "shade": {"color": good, "opacity": 0.13},
            "track": {"color": grid},
            "ink": {"color": ink},
            "ring": {"stroke": ink, "color": ink, "fill": "transparent"},
            "dot": {"color": methods[0], "fill": methods[0]},
            "interval": {"color": methods[0]},
            "name": {"fontSize": 12, "fontWeight": 600, "font": FONT},
            **ramps,
        },
    }
