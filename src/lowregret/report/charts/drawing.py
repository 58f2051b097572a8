"""What all figures have in common: their words, theming and saving, the scale of a loss, the channels of a method."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from lowregret.foreign_text import printable, without_secrets
from lowregret.report.charts.theme import Theme, colour, config
from lowregret.report.reading import StudyRecords

WIDTH = 760
HEIGHT = 400
PHONE = 46
"""Characters of a label that a phone has room for."""
POINTS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left"]
DASHES = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [12, 4], [1, 3], [6, 2, 1, 2, 1, 2]]
"""Of methods' lines: beside colours and points, for who tells colours apart less."""
LOSS = "held-out loss (nats per supervised token)"
_NO_XML = re.compile("[\ufffe\uffff]")

Chart = alt.LayerChart | alt.ConcatChart
TIP = alt.Description("tip:N")
"""What a mark says under the pointer: the field `tip` of its row. The mark itself has `aria=True`."""


@dataclass(frozen=True)
class Figure:
    """One picture and what to see in it."""

    key: str
    title: str
    chart: Chart
    """Its description says what is drawn and what is found, for those who do not see it."""
    caption: str


def themed(chart: Chart, theme: Theme = "light") -> Chart:
    """A copy of a chart in a theme, ready for a notebook."""
    copy = chart.copy()
    copy.config = alt.Config(**config(theme))
    return copy


def save(chart: Chart, path: Path, theme: Theme = "light") -> None:
    """Write a chart, offline, as the suffix says: .png at double resolution on the theme's paper, .svg on none."""
    if path.suffix == ".png":
        import vl_convert

        spec = {**_specification(chart, theme), "background": colour("paper", theme)}
        path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2, allowed_base_urls=[]))
    else:
        path.write_text(svg(chart, theme), encoding="utf-8")


def svg(chart: Chart | dict[str, Any], theme: Theme = "light") -> str:
    """A chart, or its specification, as the text of an SVG, offline; the same text for the same chart."""
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(_specification(chart, theme), allowed_base_urls=[])
    # Vega numbers its clip paths through the life of the process.
    return _renumbered(text)


def _specification(chart: Chart | dict[str, Any], theme: Theme) -> dict[str, Any]:
    """What is drawn, in a theme and without what is no text in XML: on that vl-convert 1.9 ends the process."""
    spec = chart if isinstance(chart, dict) else chart.to_dict()
    return {**_plain(without_secrets(spec)), "config": config(theme)}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", printable(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _renumbered(text: str) -> str:
    names = {name: f"clip{index}" for index, name in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', text)))}
    return re.sub(r"\bclip\d+\b", lambda found: names.get(found.group(), found.group()), text)


class LossScale:
    """The vertical scale of a loss figure: data in the middle, lanes for labels above and below."""

    def __init__(self, values: Sequence[float], above: float, below: float, height: float = HEIGHT) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        spread = max(high - low, 1e-3 * max(abs(high), 1.0))
        unit = spread / (height - above - below)
        self.low, self.high, self._unit = low - below * unit, low + spread + above * unit, unit
        self._ticks = _ticks(low, low + spread) if values else []
        apart = self._ticks[1] - self._ticks[0] if len(self._ticks) > 1 else 1.0
        self._format = f".{max(0, -math.floor(math.log10(apart) + 1e-9))}f"

    def at(self, pixels: float) -> float:
        """The loss at this many pixels under the top edge."""
        return self.high - pixels * self._unit

    def channel(self, field: str, title: str | None = LOSS) -> alt.Y:
        scale = alt.Scale(domain=[self.low, self.high], nice=False, zero=False)
        return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(values=self._ticks, format=self._format))


def _ticks(low: float, high: float) -> list[float]:
    """Some four to seven round values inside the data's range, none in the lanes."""
    raw = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    margin = 0.1 * (high - low)
    first, last = math.ceil((low - margin) / step), math.floor((high + margin) / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def data(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def method_color(study: StudyRecords) -> alt.Color:
    labels = [study.label(name) for name in study.methods]
    return alt.Color("method:N", scale=alt.Scale(domain=labels, range="category"), legend=None)


def method_shape(study: StudyRecords) -> alt.Shape:
    """A second mark of the method beside its colour, where points of equal loss lie on each other."""
    labels = [study.label(name) for name in study.methods]
    return alt.Shape("method:N", scale=alt.Scale(domain=labels, range=POINTS), legend=None)


def method_dash(study: StudyRecords) -> alt.StrokeDash:
    """The dashes of a method's line."""
    labels = [study.label(name) for name in study.methods]
    return alt.StrokeDash("method:N", scale=alt.Scale(domain=labels, range=DASHES), legend=None)


def method_key(study: StudyRecords, rows: Sequence[dict[str, Any]]) -> list[alt.Chart]:
    """A line a row at the right edge, with its method's mark; a row has `method`, `text` and, for its place, `loss`."""
    y = alt.Y("loss:Q")
    text = data(rows).mark_text(style="label", align="right", dx=-16)
    dot = data(rows).mark_point(size=75, strokeWidth=2, opacity=1, xOffset=-6)
    return [
        text.encode(x=alt.value("width"), y=y, text="text:N"),
        dot.encode(x=alt.value("width"), y=y, color=method_color(study), shape=method_shape(study)),
    ]


def layered(layers: list[alt.Chart], description: str, height: float = HEIGHT) -> alt.LayerChart:
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    chart = alt.LayerChart(layer=layers)
    return chart.properties(width=WIDTH, height=height, description=description, autosize=autosize)
