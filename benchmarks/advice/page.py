"""The table as Markdown: a summary for each quantity, then its rows."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.advice.row import QUANTITIES, Row, Summary, summaries

MANY = 60
"""Rows of one source above which the page shows the farthest alone, where the plan says something; --json has all."""
SHOWN = 10


def page(rows: Sequence[Row]) -> str:
    """All of it."""
    parts = [
        "# What the plan advises beside what was found",
        "",
        "Written by `python -m benchmarks.advice --data FOLDER --write`; FOLDER has public sweeps.",
        "",
        summary(rows),
    ]
    for quantity, meaning in QUANTITIES.items():
        own = [row for row in rows if row.quantity == quantity]
        parts += ["", f"## {quantity.capitalize()}", "", f"Found: {meaning}.", "", table(own)]
    return "\n".join(parts) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """A line for each quantity and source."""
    lines = [
        "| quantity | source | rows | the plan says | median off | farthest off | in its interval | destroys |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in summaries(rows):
        held = f"{found.held} of {found.judged}" if found.judged else ""
        worst = "" if found.worst is None else _off(found.quantity, found.worst)
        cells = (found.quantity, found.source, found.rows, found.advised, _median(found), worst, held)
        lines.append(f"| {' | '.join(map(str, cells))} | {_destroyed(rows, found)} |")
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """A line for each row; of a source with many the farthest."""
    lines = ["| source | case | advised | interval | found | off | fitted on |", "|---|---|---|---|---|---|---|"]
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        shown = own
        if len(own) > MANY:
            shown = sorted(own, key=lambda row: -row.distance)[:SHOWN]
        for row in shown:
            interval = "" if row.low is None or row.high is None else f"{_value(row.low)} to {_value(row.high)}"
            off = "" if row.off is None else _off(row.quantity, row.off)
            mark = " (destroys)" if row.destroyed else " (outside)" if row.held is False else ""
            if row.found is None and row.destroys is not None and not row.destroyed:
                mark = f"below {row.destroys:.2g}, which destroys"
            lines.append(
                f"| {source} | {row.case.replace('|', chr(92) + '|')} | {_value(row.advised)} | {interval} "
                f"| {_value(row.found)} | {off}{mark} | {'yes' if row.fitted else ''} |"
            )
        if len(shown) < len(own):
            lines.append(f"| {source} | and {len(own) - len(shown)} more | | | | | |")
    return "\n".join(lines)


def _destroyed(rows: Sequence[Row], found: Summary) -> str:
    """Advised rates that destroyed training, of those of which it is known where that begins."""
    known = [
        row.destroys
        for row in rows
        if row.quantity == found.quantity and row.destroys is not None and found.source in (row.source, "all")
    ]
    return f"{found.destroyed} of {len(known)}" if known else ""


def _value(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.3g}"


def _median(found: Summary) -> str:
    if found.median is None:
        return ""
    if found.quantity == "method":
        return f"{100 * found.median:.0f} % agree"
    return _off(found.quantity, found.median).lstrip("+")


def _off(quantity: str, off: float) -> str:
    """A factor; of memory and seconds percent; of regrets points; of words whether they agree."""
    if quantity == "method":
        return "agrees" if off else "differs"
    if quantity == "regret":
        return f"{100 * off:+.1f} points"
    if quantity in ("memory", "seconds"):
        return f"{100 * (off - 1):+.1f} %"
    return f"× {off:.2f}"
