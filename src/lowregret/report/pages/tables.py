"""The tables of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from markupsafe import Markup

from lowregret.quantities import byte_count
from lowregret.report.charts import words
from lowregret.report.pages.templates import NONE, render
from lowregret.report.reading import StudyRecords
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import MethodResult
from lowregret.strict_json import to_json

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column: what it shows, and the number or text it sorts by."""

    title: str
    shown: Callable[[Row], str]
    key: Callable[[Row], float | str | None]
    numeric: bool = True


def trials_table(study: StudyRecords) -> Markup:
    """Every trial, the failed ones too; sorted by a click on a heading."""
    columns: tuple[Column[TrialRecord], ...] = (
        Column("Method", lambda t: study.label(t.method), lambda t: study.methods.index(t.method), numeric=False),
        Column("Learning rate", lambda t: words.rate(t.learning_rate), lambda t: t.learning_rate),
        Column("Seed", lambda t: str(t.seed), lambda t: t.seed),
        Column("Status", lambda t: t.status, lambda t: t.status, numeric=False),
        _result(study, lambda t: t.test_reward if study.rewarded else t.test_nll),
        Column("Steps", lambda t: f"{t.steps:,}", lambda t: t.steps),
        Column("Tokens", lambda t: f"{t.tokens:,}", lambda t: t.tokens),
        Column("Seconds", lambda t: f"{t.seconds:,.1f}", lambda t: t.seconds),
        Column("Peak memory", lambda t: _or_none(_peak(t), byte_count), _peak),
        Column("Together", lambda t: str(t.pack_size), lambda t: t.pack_size),
        Column("Trainable", lambda t: f"{t.trainable_parameters:,}", lambda t: t.trainable_parameters),
        Column("Error or note", lambda t: t.error or t.note or "", lambda t: t.error or t.note, numeric=False),
    )
    note = (
        f"{_measure(study)} Together: the most trials in training at once with this one, "
        "itself included; its seconds are its share of their time, its peak memory is that of all. Trainable: "
        "parameters. Click a heading to sort."
    )
    return _table("All trials", note, columns, study.trials, sortable=True, mark=lambda t: f"status-{t.status}")


def _measure(study: StudyRecords) -> str:
    if study.rewarded:
        return "Test reward: mean over the held-out problems."
    return "Test NLL: held-out nats per supervised token."


def _result(study: StudyRecords, value: Callable[[Row], float | None]) -> Column[Row]:
    """The held-out loss or reward."""
    return Column("Test reward" if study.rewarded else "Test NLL", lambda row: _or_none(value(row), words.nats), value)


def _peak(trial: TrialRecord) -> int | None:
    return trial.peak_memory_bytes or None


def methods_table(study: StudyRecords) -> Markup:
    """One line a method."""
    perplexity: Column[MethodResult] = Column(
        "Perplexity", lambda r: _or_none(r.test_nll, words.perplexity), lambda r: r.test_nll
    )
    columns: tuple[Column[MethodResult], ...] = (
        Column("Method", lambda r: study.label(r.name), lambda r: r.name, numeric=False),
        Column("Best rate", lambda r: _or_none(r.best_learning_rate, words.rate), lambda r: r.best_learning_rate),
        Column("Bracketed", lambda r: "yes" if r.bracketed else "no", lambda r: r.bracketed, numeric=False),
        _result(study, lambda r: r.test_reward if study.rewarded else r.test_nll),
        *(() if study.rewarded else (perplexity,)),
        Column("Regret", lambda r: _or_none(r.regret, words.signed), lambda r: r.regret),
        Column("Of learned", lambda r: _or_none(r.regret_learned, _percent), lambda r: r.regret_learned),
        Column("Steps", lambda r: _or_none(_steps(r), lambda k: f"{k:.2g}×"), _steps),
        Column("Ruling", lambda r: (r.ruling or NONE).replace("_", " "), lambda r: r.ruling, numeric=False),
        Column("95 % interval", lambda r: words.interval(r.ci95) if r.ci95 else NONE, lambda r: r.ci95 and r.ci95[0]),
        Column("Seeds", lambda r: str(r.seeds), lambda r: r.seeds),
        Column("Trials", lambda r: str(r.trials), lambda r: r.trials),
        Column("Tokens a trial", lambda r: f"{r.tokens:,}", lambda r: r.tokens),
    )
    note = (
        "Of learned: the regret as a share of what full fine-tuning learns. Steps: how many times full fine-tuning's a "
        "LoRA needs for the same loss. Ruling: what its own interval says."
    )
    if not study.rewarded:
        note = f"Test NLL: held-out nats per supervised token; perplexity is e to its power. {note}"
    return _table("Methods", note, columns, study.verdict.methods, cards=True)


def _percent(share: float) -> str:
    return f"{100 * share:+.2g} %".replace("-", words.MINUS)


def _steps(result: MethodResult) -> float | None:
    return None if result.lag is None else result.lag.factor


def definitions(values: Mapping[str, Any], otherwise: str = "") -> Markup:
    """Names and values; nested ones are named `outer.inner`."""
    return render("pairs", rows=_flat(values), otherwise=otherwise)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = prefix + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            found += _flat(value, f"{name}.")
        else:
            said = value if isinstance(value, str) else to_json(value, ensure_ascii=False, default=str)
            found.append((name, said))
    return found


def _or_none(value: float | None, spell: Callable[[float], str]) -> str:
    return NONE if value is None or not math.isfinite(value) else spell(value)


def _table(
    title: str,
    note: str,
    columns: Sequence[Column[Row]],
    rows: Sequence[Row],
    *,
    sortable: bool = False,
    cards: bool = False,
    mark: Callable[[Row], str] = lambda row: "",
) -> Markup:
    """Sorted by a click on a heading; or, as `cards`, a card a line on a phone."""
    lines = [{"mark": mark(row), "cells": [_cell(column, row) for column in columns]} for row in rows]
    return render("table", title=title, note=note, columns=columns, rows=lines, sortable=sortable, cards=cards)


def _cell(column: Column[Row], row: Row) -> dict[str, str]:
    key = column.key(row)
    # Missing and non-finite values sort last, whatever the direction; the script knows them by the empty key.
    missing = key is None or (isinstance(key, float) and not math.isfinite(key))
    return {
        "title": column.title,
        "kind": "number" if column.numeric else column.title.lower(),
        "key": "" if missing else str(key),
        "shown": column.shown(row),
    }
