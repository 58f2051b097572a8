"""Transcripts before and after, and failures of the reward function.

Both files are written a line at a time by trials of reinforcement learning (docs/guides/rl.md); a torn line is
left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lowregret.errors import RecordsError
from lowregret.foreign import read_bytes
from lowregret.report.pages.document import joined, section
from lowregret.report.pages.templates import render
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


def transcripts(title: str, home: Path) -> Markup:
    """The first held-out problems of a trial: the completion at its first evaluation beside that at its last."""
    rows = read_lines(home / TRANSCRIPTS)
    if not rows:
        return Markup("")
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    before, after = ([row for row in rows if row["step"] == step] for step in (first, last))
    pairs = []
    for index, row in enumerate(before):
        then = after[index] if last > first and index < len(after) else None
        sides = [_side(f"step {first}", row)] + ([] if then is None else [_side(f"step {last}", then)])
        moved = _mark(row) + ("" if then is None else f" → {_mark(then)}")
        pairs.append({"title": _short(row), "moved": moved, "prompt": str(row.get("prompt", "")), "sides": sides})
    return render("transcripts", title=title, pairs=pairs)


def samples(runs: Sequence[tuple[str, Path]]) -> Markup:
    """The section of the transcripts of runs, of (title, folder of the trial); empty where there are none."""
    shown = joined([transcripts(title, home) for title, home in runs])
    return section("samples", "Transcripts, before and after", render("samples", body=shown)) if shown else Markup("")


def _short(row: dict[str, Any]) -> str:
    said = " ".join(str(row.get("prompt", "")).split())
    return said if len(said) <= 80 else said[:79] + "…"


def _mark(row: dict[str, Any]) -> str:
    reward = row.get("reward")
    return f"{reward:.3g}" if isinstance(reward, int | float) else "–"


def _side(when: str, row: dict[str, Any]) -> dict[str, str]:
    return {"when": f"{when}, reward {_mark(row)}", "text": str(row.get("completion", ""))}


def failures(homes: Sequence[tuple[str, Path]]) -> Markup:
    """The section of samples that could not be graded, of (name of the trial, its folder); empty where there are
    none."""
    found = [(name, row) for name, home in homes for row in read_lines(home / FAILURES)]
    if not found:
        return Markup("")
    kinds = Counter(str(row.get("error", "")) for _, row in found)
    most = "; ".join(f"{count:,} × {reason}" for reason, count in kinds.most_common(3))
    rest = f" The first {SHOWN} are listed; each trial's {FAILURES} has all." if len(found) > SHOWN else ""
    rows = [
        {
            "trial": name,
            "step": row["step"],
            "error": row.get("error", ""),
            "completion": row.get("completion", ""),
            "reward": _mark(row),
        }
        for name, row in found[:SHOWN]
    ]
    said = f"{len(found):,} {'sample' if len(found) == 1 else 'samples'} could not be graded: {most}.{rest}"
    return section("failures", "Failures of the reward function", render("failures", said=said, rows=rows))
