"""Colours and type of the figures, light and dark, as Vega-Lite configurations.

Charts name roles (`style="reference"`, the `category` range) and never colours, so that one specification serves the
light page, the dark page and print.
"""

from __future__ import annotations

from typing import Any, Literal

Theme = Literal["light", "dark"]

# Okabe & Ito (2008), colour-blind safe. Yellow and black are left out: one is lost on white, the other on dark. The
# dark page has lighter ones, for a contrast of more than 3 : 1.
_CATEGORY = {
    "light": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A"],
    "dark": ["#4FA8DC", "#E8772E", "#1FB890", "#DB92BB", "#E69F00", "#8CCBF0", "#A6A6A6"],
}
# From the lowest rank to the highest: light to dark on paper, dark to light on the dark page, all with enough contrast.
_RAMP = {
    "light": ["#d98800", "#d4532b", "#b5305f", "#7b2d8e", "#3d2b9c", "#0b1f6b"],
    "dark": ["#ffd166", "#ff9f5a", "#f9748f", "#cf86e8", "#a79bff", "#8fd0ff"],
}
_INK = {"light": "#1b1f24", "dark": "#e6e9ee"}
_MUTED = {"light": "#59636e", "dark": "#9ba5b1"}
_GRID = {"light": "#e7e9ec", "dark": "#2b313a"}
PAPER = {"light": "#ffffff", "dark": "#171a20"}
_SHADE = {"light": "#009E73", "dark": "#1FB890"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def config(theme: Theme) -> dict[str, Any]:
    """The Vega-Lite configuration of a theme."""
    ink, muted, grid, paper = _INK[theme], _MUTED[theme], _GRID[theme], PAPER[theme]
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": _CATEGORY[theme], "ramp": _RAMP[theme]},
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
            "limit": {"color": _SHADE[theme], "strokeWidth": 1.5, "strokeDash": [5, 3]},
            "shade": {"color": _SHADE[theme], "opacity": 0.13},
            "track": {"color": grid},
            "ink": {"color": ink, "stroke": ink},
            "ring": {"stroke": ink, "color": ink, "fill": "transparent"},
            "dot": {"color": _CATEGORY[theme][0], "fill": _CATEGORY[theme][0]},
            "interval": {"color": _CATEGORY[theme][0]},
            "name": {"fontSize": 12, "fontWeight": 600, "font": FONT},
        },
    }
