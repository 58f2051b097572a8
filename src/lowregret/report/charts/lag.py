"""The regret in steps as a picture: the held-out curves of the best LoRA and of FullFT, and the way between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lowregret.analysis.lag import steps_to
from lowregret.report.charts import words
from lowregret.report.charts.curves import curve
from lowregret.report.charts.drawing import (
    TIP,
    LossScale,
    data,
    layered,
    method_color,
    method_dash,
    method_key,
    method_shape,
)
from lowregret.report.reading import StudyRecords

_HEIGHT = 340
_SEEN = 1.1
"""A shorter way than this factor is not drawn."""


def lag_chart(study: StudyRecords) -> alt.LayerChart:
    """Held-out loss against steps on a logarithmic scale, with an arrow at the loss at which both are compared."""
    names = compared(study)
    curves = {name: {step: loss for step, loss in curve(study, name).test if step > 0} for name in names}
    values = [loss for found in curves.values() for loss in found.values()]
    scale = LossScale(values, above=20 + 18 * max(len(names), 1), below=24, height=_HEIGHT)
    steps = [step for found in curves.values() for step in found] or [1]
    axis = alt.Axis(grid=False, values=sorted(set(steps)), format="~s", labelOverlap=True)
    domain = alt.Scale(type="log", domain=[0.93 * min(steps), 1.06 * max(steps)], nice=False)
    x = alt.X("step:Q", title="optimizer steps, logarithmic", scale=domain, axis=axis)
    y = scale.channel("loss")
    rows = [
        {
            "method": study.label(name),
            "step": step,
            "loss": loss,
            "tip": f"{study.label(name)}, step {step}: {words.nats(loss)}",
        }
        for name, found in curves.items()
        for step, loss in found.items()
    ]
    color, shape = method_color(study), method_shape(study)
    line = data(rows).mark_line(strokeWidth=1.6, opacity=0.85, interpolate="linear")
    points = data(rows).mark_point(size=60, strokeWidth=2, opacity=1, aria=True)
    layers = [
        line.encode(x=x, y=y, color=color, strokeDash=method_dash(study)),
        points.encode(x=x, y=y, color=color, shape=shape, description=TIP),
        *_key(study, names, scale),
        *_before(curves, x, y),
        *_arrow(study, curves, x, y),
    ]
    return layered(layers, f"Held-out loss against the logarithm of the steps. {_found(study)}", _HEIGHT)


def _found(study: StudyRecords) -> str:
    """The regret in steps, in words."""
    lag, lora = study.verdict.lag, study.verdict.lora
    if lag is None or lag.factor is None or lora is None:
        return "How many more steps LoRA needs is not known."
    bounds = "" if lag.low is None or lag.high is None else f", 95 % interval {lag.low:.2g} to {lag.high:.2g}"
    return f"For the same loss {study.label(lora.name)} needs {lag.factor:.2g} times the steps of FullFT{bounds}."


def compared(study: StudyRecords) -> list[str]:
    """The names of the best LoRA and of FullFT, as far as they finished."""
    return [result.name for result in (study.verdict.lora, study.verdict.full) if result is not None]


def _key(study: StudyRecords, names: Sequence[str], scale: LossScale) -> list[alt.Chart]:
    rows = [
        {"method": study.label(name), "text": study.label(name), "loss": scale.at(12 + 18 * index)}
        for index, name in enumerate(names)
    ]
    return method_key(study, rows)


def _before(curves: dict[str, dict[int, float]], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """At LoRA's evaluations before the last: from where FullFT was as low, with how many times the steps that is."""
    if len(curves) < 2:
        return []
    lora, full = curves.values()
    rows = [
        {"step": start, "end": step, "loss": loss, "text": f"{step / start:.2g}×"}
        for step, loss in list(lora.items())[:-1]
        if (start := steps_to(full, loss)) is not None and step / start >= _SEEN
    ]
    rule = data(rows).mark_rule(style="reference").encode(x=x, x2="end:Q", y=y)
    note = data(rows).mark_text(style="note", align="left", dx=4, dy=-7).encode(x=x, y=y, text="text:N")
    return [rule, note]


def _arrow(study: StudyRecords, curves: dict[str, dict[int, float]], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """From where the one that ends ahead was as low, to the end of the other."""
    lag = study.verdict.lag
    if lag is None or lag.factor is None or len(curves) < 2:
        return []
    lora, full = curves.values()
    behind, ahead = (lora, full) if lora[max(lora)] > full[max(full)] else (full, lora)
    level, end = behind[max(behind)], max(behind)
    start = steps_to(ahead, level)
    if start is None:
        return []
    text = f"{lag.factor:.2g}× the steps"
    row: dict[str, Any] = {"step": start, "end": end, "loss": level, "text": text}
    # The arrow ends where the curves do, at the right: its text ends there too.
    label = data([{"step": max(start, end), "loss": level, "text": text}])
    tips = (({"step": start, "loss": level}, 270), ({"step": end, "loss": level}, 90))
    return [
        data([row]).mark_rule(style="zero").encode(x=x, x2="end:Q", y=y),
        *(
            data([tip]).mark_point(shape="triangle", filled=True, size=45, angle=angle, style="zero").encode(x=x, y=y)
            for tip, angle in tips
        ),
        *(
            label.mark_text(style=style, align="right", dy=14).encode(x=x, y=y, text="text:N")
            for style in ("halo", "label")
        ),
    ]
