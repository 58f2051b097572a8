"""Held-out loss against learning rate: the search, its bracket, and how the trials without a loss ended.

Methods are labelled in lanes under the data, where their brackets are, so that labels never collide with curves however
narrow the screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from lowregret.report.charts import words
from lowregret.report.charts.drawing import (
    HEIGHT,
    LOSS,
    TIP,
    LossScale,
    data,
    layered,
    method_color,
    method_dash,
    method_shape,
)
from lowregret.report.reading import Bracket, StudyRecords, finished
from lowregret.runs.records import TrialRecord

LANE = 36
"""Pixels of one method's lane: a line of text and a bracket."""
CROSS = "M-0.7,-0.7L0.7,0.7M-0.7,0.7L0.7,-0.7"
SHAPES = {"diverged": CROSS, "pruned": "triangle-down", "failed": "square", "above the scale": "triangle-up"}


def loss_against_learning_rate(study: StudyRecords) -> alt.LayerChart:
    """Held-out loss (nats per supervised token) of every search trial against its learning rate, log scale."""
    losses = [t.test_nll for t in study.trials if finished(t) and t.test_nll is not None]
    top = _top(losses, study.verdict.base_nll)
    marked = [name for name in study.methods if any(_outcome(t, top) for t in study.search_trials(name))]
    base = study.verdict.base_nll
    shown = [loss for loss in losses if loss <= top] + ([base] if base is not None and base <= top else [])
    lanes = LANE * len(study.methods) + 18
    height = max(HEIGHT, 250 + lanes)
    scale = LossScale(shown, above=30 + 14 * len(marked), below=lanes, height=height)
    rates = [trial.learning_rate for trial in study.trials] or [1e-4]
    x = _rate_channel(rates)
    layers = _base_rule(study, scale) + _search_layers(study, scale, x, top)
    layers += _outcome_layers(study, scale, x, marked, top)
    for index, name in enumerate(study.methods):
        lane = scale.at(height - LANE * (len(study.methods) - index) + 24)
        layers += _lane_layers(study, name, lane, x, rates)
    found = "; ".join(_found(study, name) for name in study.methods)
    chart = layered(layers, f"Held-out loss against learning rate, a line a method. {found}.", height)
    # One layer's shapes say how trials ended, the others' which method's they are.
    independent: alt.LayerChart = chart.resolve_scale(shape="independent")
    return independent


def _found(study: StudyRecords, name: str) -> str:
    """Where a method does best, in words."""
    bracket, result = study.bracket(name), study.result(name)
    if bracket is None:
        return f"{study.label(name)}: no finished trial"
    loss = f" with {words.nats(result.test_nll)}" if result is not None and result.test_nll is not None else ""
    return f"{_lane_text(study, study.label(name), bracket, name)}{loss}"


def _top(losses: Sequence[float], base: float | None) -> float:
    """The highest loss worth its space: far worse ones would flatten the differences that matter."""
    if not losses:
        return math.inf if base is None else base
    best = min(losses)
    ordered = sorted(losses)
    typical = ordered[int(0.75 * (len(ordered) - 1))] - best
    return best + max(5 * typical, 0.05 * abs(best))


def _outcome(trial: TrialRecord, top: float) -> str | None:
    """The mark at the top edge that stands for a trial without a loss on the scale; None when it needs none."""
    if trial.status == "running":
        return None
    if not finished(trial):
        return trial.status if trial.status != "finished" else "failed"
    return "above the scale" if trial.test_nll is not None and trial.test_nll > top else None


def _rate_channel(rates: Sequence[float], field: str = "rate") -> alt.X:
    low, high = min(rates) / 1.6, max(rates) * 1.6
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [tick for decade in decades for step in steps if low <= (tick := float(f"{step}e{decade}")) <= high]
    plain = "replace(datum.label, '+', '')"
    axis = alt.Axis(values=ticks, format="~e", labelExpr=plain, labelOverlap="greedy", grid=False)
    domain = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.X(f"{field}:Q", title="learning rate (log scale)", scale=domain, axis=axis)


def _base_rule(study: StudyRecords, scale: LossScale) -> list[alt.Chart]:
    base = study.verdict.base_nll
    if base is None:
        return []
    inside = base <= scale.high
    text = f"before training: {words.nats(base)}" + ("" if inside else " (above the scale)")
    row = [{"loss": base if inside else scale.at(0), "text": text}]
    rule = data(row).mark_rule(style="reference").encode(y=scale.channel("loss"))
    # Above the rule where there is one, otherwise inside the top edge.
    note = data(row).mark_text(style="note", align="right", dy=-9 if inside else 9, dx=-4)
    return ([rule] if inside else []) + [note.encode(x=alt.value("width"), y=scale.channel("loss"), text="text:N")]


def _trial_row(study: StudyRecords, trial: TrialRecord) -> dict[str, Any]:
    return {
        "method": study.label(trial.method),
        "rate": trial.learning_rate,
        "loss": trial.test_nll,
        "tip": f"{study.label(trial.method)} at {words.rate(trial.learning_rate)}, seed {trial.seed}: {_end(trial)}",
    }


def _end(trial: TrialRecord) -> str:
    """How a trial ended, in words."""
    loss = None if trial.test_nll is None else words.nats(trial.test_nll)
    return loss if trial.status == "finished" and loss else f"{trial.status}{f', {loss}' if loss else ''}"


def _search_layers(study: StudyRecords, scale: LossScale, x: alt.X, top: float) -> list[alt.Chart]:
    color, y = method_color(study), scale.channel("loss")
    rows = [_trial_row(study, t) for name in study.methods for t in study.search_trials(name) if finished(t)]
    best = [(name, study.trials_at_best(name)) for name in study.methods]
    dots = [_trial_row(study, trial) for _, trials in best for trial in trials]
    rings = [{**_trial_row(study, ran[0]), "loss": _mean([t.test_nll for t in ran])} for _, ran in best if ran]
    near = [row for row in rows if row["loss"] <= top]
    line = data(rows).mark_line(clip=True, strokeWidth=2, strokeJoin="round")
    points = data(near).mark_point(filled=True, size=50, opacity=1, aria=True)
    seeds = data(dots).mark_point(filled=True, size=20, opacity=1, aria=True)
    return [
        line.encode(x=x, y=y, color=color, strokeDash=method_dash(study)),
        points.encode(x=x, y=y, color=color, shape=method_shape(study), description=TIP),
        data(rings).mark_point(size=260, strokeWidth=2, opacity=1).encode(x=x, y=y, color=color),
        seeds.encode(x=x, y=y, color=color, description=TIP),
    ]


def _mean(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present)


def _outcome_layers(
    study: StudyRecords, scale: LossScale, x: alt.X, marked: Sequence[str], top: float
) -> list[alt.Chart]:
    """Trials without a loss on the scale, at the top edge, by shape."""
    rows = []
    for name in study.methods:
        for trial in study.search_trials(name):
            if outcome := _outcome(trial, top):
                edge = scale.at(26 + 14 * marked.index(name))
                rows.append({**_trial_row(study, trial), "outcome": outcome, "edge": edge})
    present = [outcome for outcome in SHAPES if any(row["outcome"] == outcome for row in rows)]
    if not rows:
        return []
    shape = alt.Shape(
        "outcome:N",
        scale=alt.Scale(domain=present, range=[SHAPES[outcome] for outcome in present]),
        legend=alt.Legend(orient="top", title=None, direction="horizontal", symbolStrokeWidth=2),
    )
    points = data(rows).mark_point(size=70, strokeWidth=2, opacity=1, aria=True)
    y = scale.channel("edge")
    return [points.encode(x=x, y=y, color=method_color(study), shape=shape, description=TIP)]


def _lane_layers(study: StudyRecords, name: str, lane: float, x: alt.X, rates: Sequence[float]) -> list[alt.Chart]:
    """A method's bracket at the foot of the figure, with its name and best rate: the direct label."""
    bracket, label = study.bracket(name), study.label(name)
    low, high = min(rates) / 1.6, max(rates) * 1.6
    y = alt.Y("lane:Q", title=LOSS)
    if bracket is None:
        none = data([{"text": f"{label}: no finished trial", "lane": lane}])
        return [none.mark_text(style="label", align="left", dx=4).encode(x=alt.value(0), y=y, text="text:N")]
    start, end = bracket.below or low, bracket.above or high
    align, anchor = _alignment(start, end, low, high)
    row: dict[str, Any] = {
        "method": label,
        "lane": lane,
        "start": start,
        "end": end,
        "rate": bracket.best,
        "anchor": anchor,
    }
    row["text"] = _lane_text(study, label, bracket, name)
    ends = [{**row, "rate": rate} for rate in (bracket.below, bracket.above) if rate is not None]
    color = method_color(study)
    span = data([row]).mark_rule(strokeWidth=2, strokeDash=[1, 0] if len(ends) == 2 else [5, 4])
    text = data([row]).mark_text(style="label", align=align, baseline="bottom", dy=-8)
    layers = [
        span.encode(x=_rate_channel(rates, "start"), x2="end:Q", y=y, color=color),
        data([row])
        .mark_point(filled=True, size=60, opacity=1)
        .encode(x=x, y=y, color=color, shape=method_shape(study)),
        text.encode(x=_rate_channel(rates, "anchor"), y=y, text="text:N"),
    ]
    tick = data(ends).mark_tick(orient="vertical", thickness=2, size=11, opacity=1)
    return [*layers, tick.encode(x=x, y=y, color=color)] if ends else layers


def _alignment(start: float, end: float, low: float, high: float) -> tuple[Literal["left", "center", "right"], float]:
    """Where a bracket's label is anchored so that it stays inside the plot."""
    middle = math.sqrt(start * end)
    place = math.log(middle / low) / math.log(high / low)
    if place < 1 / 3:
        return "left", start
    return ("right", end) if place > 2 / 3 else ("center", middle)


def _lane_text(study: StudyRecords, label: str, bracket: Bracket, name: str) -> str:
    result = study.result(name)
    closed = bracket.below is not None and bracket.above is not None and result is not None and result.bracketed
    return f"{label}: best at {words.rate(bracket.best)}" + ("" if closed else ", not bracketed")
