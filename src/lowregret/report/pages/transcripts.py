"""Transcripts before and after, and failures of the reward function, as escaped HTML.

Both files are written a line at a time by trials of reinforcement learning (docs/guides/rl.md); a torn line is
left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lowregret.errors import RecordsError
from lowregret.foreign import read_bytes
from lowregret.report.pages.tables import text
from lowregret.runs.files import FAILURES, TRANSCRIPTS
from lowregret.runs.metrics import DELETE, read_line

SHOWN = 20
"""Failures listed in full; the rest are counted."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line; none when it is not there. RecordsError names a damaged line."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(read_bytes(path, RecordsError, DELETE).split(b"\n")[:-1], start=1):
        found.append(read_line(line, path, number))
    return found


def transcripts(title: str, home: Path) -> str:
    """The first held-out problems of a trial: the completion at its first evaluation beside that at its last."""
    rows = read_lines(home / TRANSCRIPTS)
    if not rows:
        return ""
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    before, after = ([row for row in rows if row["step"] == step] for step in (first, last))
    pairs = []
    for index, row in enumerate(before):
        then = after[index] if last > first and index < len(after) else None
        sides = _side(f"step {first}", row) + ("" if then is None else _side(f"step {last}", then))
        moved = _mark(row) + ("" if then is None else f" → {_mark(then)}")
        prompt = escape(str(row.get("prompt", "")))
        pairs.append(
            f'<details class="sample"{" open" if index == 0 else ""}><summary>{escape(_short(row))} '
            f'<span class="moved">reward {moved}</span></summary>\n<pre class="prompt">{prompt}</pre>\n'
            f'<div class="sides">{sides}</div></details>\n'
        )
    return f"<h3>{text(title)}</h3>\n{''.join(pairs)}"


def _short(row: dict[str, Any]) -> str:
    said = " ".join(str(row.get("prompt", "")).split())
    return said if len(said) <= 80 else said[:79] + "…"


def _mark(row: dict[str, Any]) -> str:
    reward = row.get("reward")
    return f"{reward:.3g}" if isinstance(reward, int | float) else "–"


def _side(when: str, row: dict[str, Any]) -> str:
    return (
        f'<div><p class="when">{escape(when)}, reward {_mark(row)}</p>\n'
        f'<pre tabindex="0">{escape(str(row.get("completion", "")))}</pre></div>\n'
    )


def failures(homes: Sequence[tuple[str, Path]]) -> str:
    """Samples that could not be graded, of (name of the trial, its folder); empty when there are none."""
    found = [(name, row) for name, home in homes for row in read_lines(home / FAILURES)]
    if not found:
        return ""
    kinds = Counter(str(row.get("error", "")) for _, row in found)
    most = "; ".join(f"{count:,} × {reason}" for reason, count in kinds.most_common(3))
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{row["step"]}</td>'
        + "".join(
            f'<td class="long"><span>{escape(str(row.get(key, "")))}</span></td>' for key in ("error", "completion")
        )
        + f'<td class="number">{_mark(row)}</td></tr>\n'
        for name, row in found[:SHOWN]
    )
    heads = (
        '<th scope="col">Trial</th><th scope="col" class="number">Step</th><th scope="col">Reason</th>'
        '<th scope="col">Completion</th><th scope="col" class="number">Scored as</th>'
    )
    rest = f" The first {SHOWN} are listed; each trial's {FAILURES} has all." if len(found) > SHOWN else ""
    return (
        f'<p class="note">{len(found):,} {"sample" if len(found) == 1 else "samples"} could not be graded: '
        f"{text(most)}.{rest}</p>\n"
        '<div class="scroll" role="region" aria-label="Failures of the reward function" tabindex="0"><table>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{cells}</tbody></table></div>"
    )
