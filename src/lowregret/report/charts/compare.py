"""The figures of a compare: each built once, used on the interactive page and as static PNG or SVG.

Charts name roles, not colours; `themed` gives them a theme. They are drawn at a fixed width that the page replaces by
its container's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from lowregret.quantities import byte_count, count, duration
from lowregret.report.charts import words
from lowregret.report.charts.curves import Curve, curve
from lowregret.report.charts.drawing import (
    HEIGHT,
    PHONE,
    TIP,
    WIDTH,
    Chart,
    LossScale,
    data,
    layered,
    method_color,
    method_dash,
    method_key,
    method_shape,
    save,
    svg,
    themed,
)
from lowregret.report.charts.rates import loss_against_learning_rate
from lowregret.report.reading import StudyRecords, cost_of
from lowregret.runs.verdict import MethodResult

__all__ = [
    "Chart",
    "cost",
    "loss_against_learning_rate",
    "loss_against_steps",
    "regret_chart",
    "save",
    "svg",
    "themed",
]

ZERO = "datum.value == 0 ? '0' : datum.label"


def loss_against_steps(study: StudyRecords) -> alt.LayerChart:
    """Training loss (moving average) and held-out loss against optimizer steps, at each method's best learning rate."""
    curves = {name: curve(study, name) for name in study.methods}
    values = [loss for found in curves.values() for _, loss in (*found.train, *found.test)]
    keyed = [name for name in study.methods if curves[name].train or curves[name].test]
    key = 20 + 18 * max(len(keyed), 1)
    height = max(HEIGHT, 320 + key)
    scale = LossScale(values, above=key, below=14, height=height)
    last = max((step for found in curves.values() for step, _ in (*found.train, *found.test)), default=1)
    domain = alt.Scale(domain=[0, last], nice=False)
    axis = alt.Axis(grid=False, tickMinStep=1, format="~s", tickCount=8) if keyed else None
    x = alt.X("step:Q", title="optimizer steps", scale=domain, axis=axis)
    y = scale.channel("loss", "loss (nats per supervised token)")
    color = method_color(study)
    train = _rows(study, curves, "train")
    test = _rows(study, curves, "test")
    points = data(test).mark_point(size=75, strokeWidth=2, opacity=1, aria=True)
    line = data(train).mark_line(strokeWidth=1.6, opacity=0.85, interpolate="linear")
    layers = [
        line.encode(x=x, y=y, color=color, strokeDash=method_dash(study)),
        points.encode(x=x, y=y, color=color, shape=method_shape(study), description=TIP),
        *_key_layers(study, keyed, scale),
    ]
    return layered(layers, f"Training and held-out loss against optimizer steps. {_ends(study, curves)}", height)


def _rows(study: StudyRecords, curves: dict[str, Curve], which: str) -> list[dict[str, Any]]:
    return [
        {
            "method": study.label(name),
            "step": step,
            "loss": loss,
            "tip": f"{study.label(name)}, step {step}: {words.nats(loss)}",
        }
        for name, found in curves.items()
        for step, loss in getattr(found, which)
    ]


def _ends(study: StudyRecords, curves: dict[str, Curve]) -> str:
    """Where the held-out losses begin and end, in words."""
    said = [
        f"{study.label(name)} goes from {words.nats(found.test[0][1])} to {words.nats(found.test[-1][1])} held out"
        for name, found in curves.items()
        if found.test
    ]
    return f"{'; '.join(said) or 'Nothing finished'}."


def _key_layers(study: StudyRecords, keyed: Sequence[str], scale: LossScale) -> list[alt.Chart]:
    """Names with the final held-out loss, top right, where falling curves leave room."""
    if not keyed:
        row = [{"text": "No method has a finished trial.", "loss": scale.at(HEIGHT / 2)}]
        note = data(row).mark_text(style="note", align="left", dx=8)
        return [note.encode(x=alt.value(0), y=alt.Y("loss:Q"), text="text:N")]
    rows = []
    for index, name in enumerate(keyed):
        result = study.result(name)
        loss = f"  {words.nats(result.test_nll)}" if result and result.test_nll is not None else ""
        rows.append({"method": study.label(name), "text": study.label(name) + loss, "loss": scale.at(12 + 18 * index)})
    return method_key(study, rows)


def cost(study: StudyRecords) -> alt.ConcatChart:
    """Time, memory, trainable parameters and checkpoint size of one trial, as four panels of bars.

    Bars start at zero on a linear scale, because their lengths are compared; what is too small to see has its number.
    """
    titles = ("Time of one trial", "Peak memory", "Trainable parameters", "Checkpoint size")
    formats = (duration, byte_count, count, byte_count)
    panels, told = [], []
    for index, (title, spell) in enumerate(zip(titles, formats, strict=True)):
        rows = []
        for name in study.methods:
            result = study.result(name)
            value = cost_of(result)[index] if result else 0
            text = spell(value) if value > 0 else "not measured"
            rows.append({"method": study.label(name), "value": value, "text": text})
        panels.append(_panel(study, title, rows))
        said = ", ".join(f"{row['method']} {row['text']}" for row in rows)
        told.append(f"{title}: {said}.")
    concat = alt.concat(*panels, columns=2, spacing=34)
    return concat.properties(description=f"What one trial of each method costs. {' '.join(told)}")


def _panel(study: StudyRecords, title: str, rows: list[dict[str, Any]]) -> alt.LayerChart:
    order = [row["method"] for row in rows]
    y = alt.Y("method:N", sort=order, axis=None, scale=alt.Scale(paddingInner=0, paddingOuter=0))
    top = max((row["value"] for row in rows), default=0) or 1
    x = alt.X("value:Q", axis=None, scale=alt.Scale(domain=[0, top], nice=False))
    base = data(rows)
    layers = [
        base.mark_bar(size=8, yOffset=8, style="track").encode(x=alt.value(0), x2=alt.value("width"), y=y),
        base.mark_bar(size=8, yOffset=8).encode(x=x, y=y, color=method_color(study)),
        base.mark_text(style="label", align="left", dy=-5).encode(x=alt.value(0), y=y, text="method:N"),
        base.mark_text(style="value", align="right", dy=-5).encode(x=alt.value("width"), y=y, text="text:N"),
    ]
    return alt.LayerChart(layer=layers).properties(title=title, width=(WIDTH - 34) / 2, height=40 * len(rows))


def regret_chart(study: StudyRecords) -> alt.LayerChart:
    """Regret of each method but FullFT (nats per supervised token) with its 95 % interval, zero and the tolerance."""
    reference = None if study.verdict.full is None else study.verdict.full.name
    results = [r for r in study.verdict.methods if r.name not in ("full", reference)]
    known = [r for r in results if r.regret is not None]
    limit = study.verdict.tolerance
    values = [0.0, *([limit] if limit is not None else [])]
    values += [v for r in known for v in (r.regret, *(r.ci95 or ())) if v is not None and math.isfinite(v)]
    spread = max(values) - min(values) or 1e-3
    low, high = min(values) - 0.08 * spread, max(values) + 0.08 * spread
    two = any(len(_said(study, result)) > PHONE for result in results)  # lines of text
    lane = 66 if two else 50
    height = 36 + lane * max(len(results), 1)
    axis = alt.Axis(grid=False, tickCount=7, format="+.5~f", labelExpr=ZERO, labelOverlap="greedy") if known else None
    x = alt.X(
        "regret:Q",
        title="regret (reward below full fine-tuning)" if study.rewarded else "regret (nats per supervised token)",
        scale=alt.Scale(domain=[low, high], nice=False),
        axis=axis,
    )
    layers = _limits(low, high, limit, x) if known else []
    for index, result in enumerate(results):
        layers += _interval_layers(study, result, 56 + lane * index, x, two)
    return layered(layers, f"Regret of each LoRA with its 95 % interval. {_found(study, results, limit)}", height)


def _found(study: StudyRecords, results: Sequence[MethodResult], limit: float | None) -> str:
    """What the intervals say, in words."""
    said = []
    for result in results:
        where = ""
        if result.ci95 is not None and limit is not None:
            low, high = result.ci95
            where = "within" if high < limit else "beyond" if low > limit else "on both sides of"
            where = f", {where} the tolerance of {words.nats(limit)}"
        said.append(f"{_said(study, result)}{where}")
    return f"{'; '.join(said) or 'Nothing was measured'}."


def _said(study: StudyRecords, result: MethodResult) -> str:
    label = study.label(result.name)
    if result.regret is None:
        return f"{label}: not measured"
    if result.ci95 is None:
        return f"{label}: {words.signed(result.regret)}, no interval"
    return f"{label}: {words.signed(result.regret)} ({words.interval(result.ci95)})"


def _limits(low: float, high: float, limit: float | None, x: alt.X) -> list[alt.Chart]:
    """Zero, the tolerance and the shade up to it. Their notes stand on two lines at the top."""
    middle = (low + high) / 2
    lines = [(0.0, "zero: as good as full fine-tuning", "zero")]
    layers = []
    if limit is not None:
        lines.append((limit, f"tolerance: {words.nats(limit)}", "limit"))
        shade = data([{"regret": low, "end": limit}]).mark_rect(style="shade")
        layers.append(shade.encode(x=x, x2="end:Q", y=alt.value(0), y2=alt.value("height")))
    if middle < 0:
        lines.reverse()
    for index, (value, text, style) in enumerate(lines):
        row, left = data([{"regret": value, "text": text}]), value <= middle
        note = row.mark_text(style="note", align="left" if left else "right", dx=5 if left else -5)
        layers.append(row.mark_rule(style=style).encode(x=x, y=alt.value(15 * index), y2=alt.value("height")))
        layers.append(note.encode(x=x, y=alt.value(8 + 15 * index), text="text:N"))
    return layers


def _interval_layers(study: StudyRecords, result: MethodResult, line: float, x: alt.X, two: bool) -> list[alt.Chart]:
    label, said = study.label(result.name), _said(study, result)
    row: dict[str, Any] = {"method": label, "tip": said, "regret": result.regret}
    layers = []
    for text in (f"{label}:", said.removeprefix(f"{label}: ")) if two else (said,):
        for style in ("halo", "label"):
            mark = data([{"text": text}]).mark_text(style=style, align="left", dx=8)
            layers.append(mark.encode(x=alt.value(0), y=alt.value(line - 6), text="text:N"))
        line += 16
    line -= 16
    if result.regret is None:
        return layers
    y, color = alt.value(line + 12), method_color(study)
    if result.ci95 is not None:
        ends = [{**row, "regret": value} for value in result.ci95]
        span = data([{**row, "regret": result.ci95[0], "end": result.ci95[1]}])
        layers.append(span.mark_rule(strokeWidth=2.5).encode(x=x, x2="end:Q", y=y, color=color))
        tick = data(ends).mark_tick(orient="vertical", thickness=2.5, size=12, opacity=1)
        layers.append(tick.encode(x=x, y=y, color=color))
    shape = method_shape(study)
    point = data([row]).mark_point(filled=True, size=120, opacity=1, aria=True)
    layers.append(point.encode(x=x, y=y, color=color, shape=shape, description=TIP))
    return layers
