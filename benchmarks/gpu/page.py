"""The page: what holds, how fast, how much, and what the plan should assume."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.peft_loop import LABEL as PEFT

SPEED = {"LoRA r16 alone": 1.3}
"""Times PEFT's tokens a second that is wanted."""
FULL_SHARE, EVEN_SHARE, PLAN_SHARE = 0.35, 0.95, 0.10
"""Wanted: FullFT's share of the peak (torchtitan's published 8B has 0.349), an uneven pack's speed beside an even
one's, and how far the plan's bytes may be off."""


def page(found: Mapping[str, Any]) -> str:
    """The whole file."""
    facts = [f"- {name}: {value}" for name, value in found["facts"].items()]
    parts = ["# On a GPU", "Written by `python -m benchmarks.gpu`; do not edit.", "\n".join(facts)]
    if found["facts"]["rehearsal"]:
        parts.insert(1, "**A rehearsal on a CPU, with tiny shapes: no figure here is a result.**")
    parts += [_laws(found["laws"])]
    judged = not found["facts"]["rehearsal"]
    parts += [_contenders(name, each, judged) for name, each in found["bases"].items()]
    parts += [_constants(found["constants"])] if found.get("constants") else []
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _laws(laws: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (name, f"{each['apart']:.2g}", f"{each['most']:.2g}", "holds" if each["holds"] else "**broken**")
        for name, each in laws.items()
    ]
    return "## Laws in bfloat16\n\n" + _table(("law", "apart", "at most", ""), rows)


def _contenders(name: str, contenders: Sequence[Mapping[str, Any]], judged: bool) -> str:
    speeds = {each["label"]: each["tokens_per_second"] for each in contenders if "skipped" not in each}
    rows = []
    for each in contenders:
        if "skipped" in each:
            rows.append((each["label"], f"left out: {each['skipped']}", "", "", "", "", "", ""))
            continue
        rows.append(
            (
                each["label"],
                f"{statistics.median(each['seconds']):.3g} ({each['passes']} passes)",
                f"{each['tokens_per_second']:,.0f}",
                _share(each.get("peak_share")),
                _bytes(each.get("peak_bytes")),
                _bytes(each.get("planned_bytes")),
                str(each.get("surprise_waits", "")),
                "; ".join(_wanted(each, speeds)) if judged else "",
            )
        )
    head = ("contender", "seconds a step", "tokens a second", "of the peak", "bytes", "planned", "surprise waits", "")
    return f"## {name}\n\n" + _table(head, rows)


def _wanted(each: Mapping[str, Any], speeds: Mapping[str, float]) -> list[str]:
    """What was wanted of a contender, and what came of it."""
    found, label, speed = [], each["label"], each["tokens_per_second"]
    if label in SPEED and PEFT in speeds:
        found.append(_goal(speed / speeds[PEFT], SPEED[label], "× PEFT"))
    if "uneven" in label and label.replace("uneven", "even") in speeds:
        found.append(_goal(speed / speeds[label.replace("uneven", "even")], EVEN_SHARE, "of the even pack"))
    if label == "FullFT" and "peak_share" in each:
        found.append(_goal(each["peak_share"], FULL_SHARE, "of the peak"))
    if each.get("peak_bytes") and "planned_bytes" in each:
        off = each["planned_bytes"] / each["peak_bytes"] - 1
        found.append(f"plan off by {100 * off:+.0f} %: {'reached' if abs(off) <= PLAN_SHARE else '**missed**'}")
    if each.get("waits_at"):
        found.append(f"waits at {', '.join(each['waits_at'])}: **missed**")
    return found


def _goal(value: float, wanted: float, what: str) -> str:
    return f"{value:.2f} {what} (wanted ≥ {wanted:.2f}: {'reached' if value >= wanted else '**missed**'})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} GB"


def _constants(found: Mapping[str, Any]) -> str:
    rows = [(name, "" if value is None else f"{value:.4g}") for name, value in found.items()]
    return "## What the plan assumes of a GPU\n\n" + _table(("constant", "measured"), rows)
