"""Two kinds of picture that all studies share: curves with their names at their ends, and values with intervals.

Ranks are shades of one ramp, from the lowest to the highest; full fine-tuning is drawn in ink, dashed. Names stand
where curves end, moved apart where they would overlap, so that no legend is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from lowregret.report.charts.drawing import HEIGHT, PHONE, TIP, data, layered
from lowregret.report.charts.theme import ramp
from lowregret.report.charts.words import MINUS

PLAIN = "replace(datum.label, '+', '')"
"""A number without the sign of its exponent: 1e2, not 1e+2."""
LINE = 15
"""Pixels between two names at the right edge."""
_TIPS = 24
"""Most points of a curve without dots that say what they are."""


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    """Empty for one of several that share the name of another."""
    points: Sequence[tuple[float, float]]
    shade: float | None = None
    """From 0 to 1 on the ramp; None for ink, which is full fine-tuning or the reference."""
    intervals: Sequence[tuple[float, float, float]] = ()
    """(x, low, high)."""
    dashed: bool = False
    dots: bool = False
    faint: bool = False
    """One of several behind their mean."""


@dataclass(frozen=True)
class Axis:
    """One direction."""

    title: str
    log: bool = False
    ticks: Sequence[float] | None = None
    format: str = "~r"
    low: float | None = None
    high: float | None = None
    """Bounds of the domain, where the data's own would not do."""


STEPS = Axis("optimizer steps", format="~s", low=0.0)


@dataclass(frozen=True)
class Reference:
    """A line that is no measurement, across the figure."""

    y: float
    text: str
    under: bool = False
    """Whether the text stands under the line, where curves rise from it."""


def curves(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    description: str,
    *,
    references: Sequence[Reference] = (),
    marks: Sequence[tuple[float, float, str]] = (),
    height: int = HEIGHT,
) -> alt.LayerChart:
    """Curves with their names at the right; `marks` are (x, y, what it says) of rings on them.

    The chart's description is the one given, and what the curves come to.
    """
    drawn = [s for s in series if s.points]
    if not drawn:
        return _empty(description)
    scale = _Scale(y, drawn, references, height)
    first, last = (f(point[0] for s in drawn for point in s.points) for f in (min, max))
    channel_x, channel_y = _x(x, first, last), scale.channel()
    layers = _references(references, channel_y)
    barred = [one for one in drawn if one.intervals]
    for one in drawn:
        # Side by side, where intervals of several curves would hide one another.
        aside = 4.0 * (barred.index(one) - (len(barred) - 1) / 2) if one in barred and len(barred) > 1 else 0.0
        layers += _curve(one, channel_x, channel_y, aside)
    if marks:
        rings = data([{"x": a, "y": b, "tip": text} for a, b, text in marks])
        ring = rings.mark_point(size=120, strokeWidth=1.6, opacity=1, clip=True, style="ring", aria=True)
        layers.append(ring.encode(x=channel_x, y=channel_y, description=TIP))
    layers += _names(drawn, scale, channel_x, channel_y)
    return layered(layers, f"{description}. {_ends(drawn, [text for _, _, text in marks])}", height)


def forest(
    rows: Sequence[tuple[str, float | None, float | None, float | None]],
    title: str,
    description: str,
    *,
    zero: str | None = None,
    log: bool = False,
    format: str = "~r",
) -> alt.LayerChart:
    """A line a row: (name, value, low, high). `zero` names what lies at zero (at one on a logarithmic scale)."""
    known = [row for row in rows if row[1] is not None]
    if not known:
        return _empty(description)
    origin = ([1.0] if log else [0.0]) if zero is not None else []
    values = [v for row in known for v in row[1:] if v is not None and (v > 0 or not log)] + origin
    low, high = _padded(min(values), max(values), log)
    scale = alt.Scale(domain=[low, high], nice=False, type="log" if log else "linear")
    # Labels lie above their rows, in lanes of their own: they need no margin, however narrow the screen.
    x = alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(grid=True, tickCount=6, format=format, labelExpr=PLAIN))
    said = [(name, "not known" if value is None else _interval_words(value, *ends)) for name, value, *ends in rows]
    two = any(len(f"{name} = {shown}") > PHONE for name, shown in said)  # lines of text
    lane = 58 if two else 42
    height = 24 + lane * len(rows)
    layers = []
    if zero is not None:
        rule = data([{"x": origin[0], "text": zero}])
        layers.append(rule.mark_rule(style="zero").encode(x=x))
        layers.append(rule.mark_text(style="note", align="left", dx=5, dy=0).encode(x=x, y=alt.value(8), text="text:N"))
    for index, (name, value, below, above) in enumerate(rows):
        y = alt.value(24 + lane * (index + 1) - 15)
        shown = said[index][1]
        if value is not None:
            row = {"x": value, "low": _or(below, value), "high": _or(above, value), "text": name}
            layers.append(
                data([row]).mark_rule(strokeWidth=2, style="interval").encode(x=x_of(x, "low"), x2="high:Q", y=y)
            )
            tipped = data([{**row, "tip": f"{name}: {shown}"}])
            dot = tipped.mark_point(size=70, filled=True, opacity=1, style="dot", aria=True)
            layers.append(dot.encode(x=x, y=y, description=TIP))
        for line, words in enumerate((name, shown) if two else (f"{name}  =  {shown}",)):
            label = data([{"text": words}]).mark_text(style="label", align="left")
            layers.append(label.encode(x=alt.value(2), y=alt.value(34 + lane * index + 16 * line), text="text:N"))
    found = "; ".join(f"{name} {shown}" for name, shown in said)
    return layered(layers, f"{description}. {found}.", height)


def _ends(series: Sequence[Series], marks: Sequence[str]) -> str:
    """Where the curves go, and what is marked, in words."""
    said = []
    for one in series:
        (first_x, first), (last_x, last) = one.points[0], one.points[-1]
        if one.name and len(one.points) > 1:
            said.append(
                f"{one.name} goes from {_number(first)} at {_number(first_x)} to {_number(last)} at {_number(last_x)}"
            )
        elif one.name:
            said.append(f"{one.name} is {_number(first)} at {_number(first_x)}")
    return "; ".join([*said, *marks]) + "."


def _number(value: float) -> str:
    return re.sub(r"^-", MINUS, f"{value:.3g}")


def x_of(channel: alt.X, field: str) -> alt.X:
    """The same axis and scale for another field."""
    found = channel.copy()
    found.shorthand = f"{field}:Q"
    return found


def _interval_words(value: float, low: float | None, high: float | None) -> str:
    shown = [_number(number) for number in (value, low, high) if number is not None]
    if low is None or high is None or (low == value == high):
        return shown[0]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _or(value: float | None, other: float) -> float:
    return other if value is None or not math.isfinite(value) else value


def _empty(description: str) -> alt.LayerChart:
    note = data([{"text": "Nothing finished that could be drawn."}]).mark_text(style="note", align="left", dx=8)
    return layered([note.encode(x=alt.value(0), y=alt.value(30), text="text:N")], description, 60)


class _Scale:
    """The vertical scale, and where a value lies in pixels."""

    def __init__(self, axis: Axis, series: Sequence[Series], references: Sequence[Reference], height: int) -> None:
        values = [v for s in series for _, v in s.points] + [v for s in series for row in s.intervals for v in row[1:]]
        values += [reference.y for reference in references]
        values = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)]
        low = min(values) if axis.low is None else axis.low
        high = max(values) if axis.high is None else axis.high
        self.low, self.high = _padded(low, high, axis.log)
        self.axis, self.height = axis, height

    def channel(self) -> alt.Y:
        kind: Any = "log" if self.axis.log else "linear"
        scale = alt.Scale(domain=[self.low, self.high], nice=False, zero=False, type=kind)
        axis = alt.Axis(tickCount=6, format=self.axis.format)
        ticks = self.axis.ticks if self.axis.ticks is not None or not self.axis.log else _ticks(self.low, self.high)
        if ticks is not None and (len(ticks) > 2 or self.axis.ticks is not None):
            axis = alt.Axis(values=list(ticks), format=self.axis.format)
        title = self.axis.title + (" (log scale)" if self.axis.log else "")
        return alt.Y("y:Q", title=title, scale=scale, axis=axis)

    def pixel(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.axis.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.height * (1 - share)


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        if high / low < 1.05:  # one value: a decade around it, so that there are ticks
            return low / 3, high * 3
        ratio = (high / low) ** 0.06
        return low / ratio, high * ratio
    if high == low:  # one value: a fifth of it around it, so that ticks have few digits
        around = 0.2 * abs(high) or 1.0
        return low - around, high + around
    spread = max(high - low, 1e-3 * max(abs(high), 1e-6))
    return low - 0.06 * spread, high + 0.06 * spread


def _x(axis: Axis, first: float, last: float) -> alt.X:
    """With room at the right for the names."""
    low, last = first if axis.low is None else axis.low, last if axis.high is None else axis.high
    if axis.log:
        reach = max(last / low, 1.5)
        domain = [low / reach**0.02, last * reach**0.24]
    else:
        reach = max(last - low, 1e-9)
        domain = [low - 0.02 * reach, last + 0.24 * reach]
    ticks = _ticks(first, last) if axis.log else _whole(low, last)
    if axis.ticks is not None:
        ticks = [tick for tick in axis.ticks if low * 0.999 <= tick <= last * 1.001]
    marks = alt.Axis(grid=False, format=axis.format, labelOverlap="greedy", labelExpr=PLAIN, values=ticks)
    scale = alt.Scale(domain=domain, nice=False, type="log" if axis.log else "linear")
    return alt.X("x:Q", title=axis.title + (" (log scale)" if axis.log else ""), scale=scale, axis=marks)


def _whole(low: float, high: float) -> list[float]:
    """Some five to nine round whole numbers, none where the names are."""
    raw = max((high - low) / 8, 1.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade; more of them within one decade, or 1 alone where there are many."""
    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if high / low < 10 else (1.0, 2.0, 5.0) if high / low < 2000 else (1.0,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for d in decades for s in steps if low * 0.999 <= (t := float(f"{s}e{d}")) <= high * 1.001]


def _references(references: Sequence[Reference], y: alt.Y) -> list[alt.Chart]:
    layers: list[alt.Chart] = []
    for index, reference in enumerate(references):
        above = -7 if index % 2 == 0 and not reference.under else 9  # so that two that lie close together can be read
        row = data([{"y": reference.y, "text": reference.text}])
        layers.append(row.mark_rule(style="reference").encode(y=y))
        layers.append(
            row.mark_text(style="note", align="left", dx=4, dy=above).encode(x=alt.value(0), y=y, text="text:N")
        )
    return layers


def _curve(one: Series, x: alt.X, y: alt.Y, aside: float) -> list[alt.Chart]:
    style: dict[str, Any] = {"style": ramp(one.shade)}
    dash: dict[str, Any] = {"strokeDash": [6, 4]} if one.dashed else {}
    style |= {"xOffset": aside} if aside else {}
    source = data([{"x": a, "y": b} for a, b in one.points])
    if one.faint:
        return [source.mark_line(strokeWidth=1, opacity=0.4, clip=True, **style).encode(x=x, y=y)]
    layers = []
    if one.intervals:
        bars = data([{"x": a, "y": b, "high": c} for a, b, c in one.intervals])
        layers.append(bars.mark_rule(strokeWidth=1.5, opacity=0.7, clip=True, **style).encode(x=x, y=y, y2="high:Q"))
    layers.append(source.mark_line(strokeWidth=2, clip=True, **style, **dash).encode(x=x, y=y))
    every = 1 if one.dots else -(-len(one.points) // _TIPS)
    tipped = data([{"x": a, "y": b, "tip": _tip(one, i)} for i, (a, b) in enumerate(one.points) if i % every == 0])
    dots = tipped.mark_point(size=46 if one.dots else 16, filled=True, opacity=1, clip=True, aria=True, **style)
    return [*layers, dots.encode(x=x, y=y, description=TIP)]


def _tip(one: Series, index: int) -> str:
    """What the pointer shows at a point."""
    a, b = one.points[index]
    told = f"{_number(b)} at {a:.4g}"
    return f"{one.name}: {told}" if one.name else told


def _names(series: Sequence[Series], scale: _Scale, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """At the right edge, each as near to the end of its curve as its neighbours allow, with a hairline to it."""
    named = [one for one in series if one.name]
    wanted = sorted(((scale.pixel(one.points[-1][1]), one) for one in named), key=lambda pair: pair[0])
    places: list[float] = []
    for pixel, _ in wanted:
        places.append(max(pixel, places[-1] + LINE if places else 8.0))
    over = places[-1] - (scale.height - 6) if places else 0.0
    if over > 0:
        places[-1] -= over
        for index in range(len(places) - 2, -1, -1):
            places[index] = min(places[index], places[index + 1] - LINE)
    lines, texts = [], []
    for place, (_, one) in zip(places, wanted, strict=True):
        row = data([{"text": one.name}])
        where = {"x": alt.value("width"), "y": alt.value(place), "text": "text:N"}
        lines.append(_hairline(one, place, scale, x, y))
        texts.append(row.mark_text(style="halo", align="right", dx=-2).encode(**where))
        texts.append(row.mark_text(style=["name", ramp(one.shade)], align="right", dx=-2).encode(**where))
    return [*lines, *texts]


def _hairline(one: Series, place: float, scale: _Scale, x: alt.X, y: alt.Y) -> alt.Chart:
    """From the end of a curve to its name: where names are moved apart, and where a curve ends early."""
    end = one.points[-1]
    row = data([{"x": end[0], "y": min(max(end[1], scale.low), scale.high)}])
    line = row.mark_rule(strokeWidth=0.8, opacity=0.45, style=ramp(one.shade))
    before = alt.value({"expr": f"width - {7 * len(one.name) + 6}"})
    drawn: alt.Chart = line.encode(x=x, y=y, x2=before, y2=alt.value(place))
    return drawn
