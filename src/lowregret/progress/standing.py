"""How far a study is, as a table: while it is watched, and asked for from anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lowregret.analysis.numbers import nats
from lowregret.runs.records import TrialRecord
from lowregret.runs.standing import GroupStanding

if TYPE_CHECKING:
    from lowregret.study.status import StudyStatus

_SHOWN = 4
"""Trials of a group that have a line of their own while they train together."""


def standing_table(groups: Sequence[GroupStanding], rows: int | None = None, *, narrow: bool = False) -> Table:
    """A line a trial in training, and one for a group without; at most so many rows. A narrow one leaves out times and
    workers, and how many trials have ended."""
    table = Table(box=None, pad_edge=False)
    columns = (("group", "left"), ("trials", "right"), ("in training", "left"), ("step", "right"),
               ("held-out", "right"), ("seconds", "right"), ("worker", "left"))  # fmt: skip
    kept_columns = [0, 2, 3, 4] if narrow else range(len(columns))
    for column, justify in (columns[place] for place in kept_columns):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    lines = [line for group in groups for line in _lines(group, group.key if narrow else group.label or group.key)]
    kept = lines if rows is None or len(lines) <= rows else lines[: max(rows - 1, 1)]
    for line in kept:
        table.add_row(*(Text(line[place]) for place in kept_columns))
    if len(kept) < len(lines):
        table.add_row(f"… {len(lines) - len(kept)} more")
    return table


def _lines(group: GroupStanding, name: str) -> Iterator[tuple[str, ...]]:
    done = f"{len(group.ended)}/{max(group.expected, len(group.records))}"
    failed = group.counts.get("failed", 0)
    state = f"{failed} failed" if failed else ""
    where = "" if group.holder is None else f"{group.holder.host}:{group.holder.pid}"
    running = group.running
    if not running:
        yield name, done, state, "", "", "", where
    for number, record in enumerate(running[:_SHOWN]):
        head = (name, done) if number == 0 else ("", "")
        yield *head, *_trial(group, record), where if number == 0 else ""
    if len(running) > _SHOWN:
        yield "", "", f"… {len(running) - _SHOWN} more", "", "", "", ""


def _trial(group: GroupStanding, record: TrialRecord) -> tuple[str, str, str, str]:
    name = f"{record.method} at {record.learning_rate:.3g}, seed {record.seed}"
    last = group.last.get(record.id)
    if last is None:
        return name, "", "", ""
    found = "" if last.test_loss is None else nats(last.test_loss if last.test_reward is None else last.test_reward)
    steps = str(last.step) if group.steps is None else f"{last.step}/{group.steps}"
    return name, steps, found, f"{last.seconds:.0f}"


def status_lines(study: StudyStatus) -> Iterator[str]:
    """A study in words, above its table: what has failed, with the last that was said there."""
    states = Counter(group.state for group in study.groups)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    claims = "has its claims" if study.judged else "no claims yet"
    yield f"{study.name}: {len(study.groups)} groups: {counted}; {claims}"
    for group in study.groups:
        for record in group.failed:
            yield f"{group.standing.key} {record.id}: failed: {record.error}"
        if group.said:
            yield f"{group.standing.key}: {group.state}. The last that its workers said:"
            yield from (f"    {line}" for line in group.said)
    if states["stopped"] and study.command:
        yield f"Nobody trains what has stopped. The same command goes on: {study.command}"
