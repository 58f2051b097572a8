"""A small table that a notebook shows for a result: escaped, self-contained, in the colours of the notebook. A leaf."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_BORDER = "border:1px solid currentColor"


def card(
    title: str,
    lines: Iterable[str] = (),
    head: Sequence[str] = (),
    rows: Iterable[Sequence[str]] = (),
    notes: Iterable[str] = (),
) -> str:
    """A title, sentences, a table whose first column is text, and notes in a list: all plain text, here made HTML."""
    parts = [f"<p style='font-weight:bold;margin:0 0 .3em'>{escape(title)}</p>"]
    parts += [f"<p style='margin:0 0 .3em'>{escape(line)}</p>" for line in lines]
    body = "".join(_row(row, "td") for row in rows)
    if body:
        parts.append(f"<table style='border-collapse:collapse;margin:.3em 0'>{_row(head, 'th')}{body}</table>")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    parts.append(f"<ul style='margin:.3em 0;padding-left:1.5em'>{items}</ul>" if items else "")
    return f"<div style='{_BORDER};border-radius:4px;padding:.6em .9em;max-width:60em'>{''.join(parts)}</div>"


def _row(cells: Sequence[str], kind: str) -> str:
    found = []
    for place, cell in enumerate(cells):
        side = "left" if place == 0 else "right"
        scope = " scope='col'" if kind == "th" else ""
        found.append(f"<{kind}{scope} style='text-align:{side};padding:.15em .8em .15em 0'>{escape(cell)}</{kind}>")
    return f"<tr>{''.join(found)}</tr>" if found else ""


def number(value: float | None, form: str = ".4f") -> str:
    """`2.1250`; nothing for none."""
    return "" if value is None else format(value, form)
