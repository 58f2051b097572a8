"""The page: one Markdown table of all figures, with the machine above it and the settings below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bench.results import apart, losses, median, median_rate, peak, timed

SAME_LOSS = 1e-4
"""Losses further apart than this mean that the contenders did not do the same work."""
_HEADER = ("figure", "contender", "seconds: median (range)", "per second", "peak memory", "beside loading", "loss")


@dataclass(frozen=True)
class Line:
    """One contender of a figure, and what it comes to beside the others."""

    figure: str
    contender: str
    seconds: str = ""
    rate: str = ""
    peak: str = ""
    beside: str = ""
    """Peak less what was resident once the contender had loaded."""
    loss: str = ""
    verdict: str = ""


def line(figure: str, label: str, raw: Mapping[str, Any], verdict: str = "", unit: str = "supervised") -> Line:
    """The line of a contender that trains or samples; `unit` is the field counted per second."""
    values = [answer["seconds"] for answer in timed(raw)]
    trains = "loss" in raw["answers"][0]
    names = {"supervised": "supervised tokens", "tokens": "tokens"}
    return Line(
        figure,
        label,
        f"{median(raw):.3g} ({min(values):.3g}–{max(values):.3g})",
        f"{median_rate(raw, unit):,.0f} {names[unit]}" if unit in raw["answers"][0] else "",
        gigabytes(peak(raw)),
        gigabytes(peak(raw) - raw["loaded_bytes"]),
        f"{raw['answers'][0]['loss']:.4f} → {raw['answers'][-1]['loss']:.4f}" if trains else "",
        verdict,
    )


def gigabytes(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.2f} GB"


def goal(value: float, wanted: float, *, at_most: bool = False, unit: str = "×") -> str:
    """A measured value beside what was wanted of it."""
    reached = value <= wanted if at_most else value >= wanted
    shown = (
        (f"{100 * value:.0f} %", f"{100 * wanted:.0f} %") if unit == "%" else (f"{value:.2f}{unit}", f"{wanted:.3g}")
    )
    return f"{shown[0]} (wanted {'≤' if at_most else '≥'} {shown[1]}: {'reached' if reached else '**missed**'})"


def same_work(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How far the losses of two contenders are apart, and whether that still is the same work."""
    largest = apart(losses(one), losses(other))
    return f"losses {largest:.0e} apart" + ("" if largest <= SAME_LOSS else ": **not the same work**")


def page(environment: Mapping[str, Any], lines: Sequence[Line], notes: Sequence[str]) -> str:
    """The whole file."""
    facts = [f"- {name}: {value}" for name, value in environment.items()]
    head = [*_HEADER, "against the others"]
    rows = [
        (each.figure, each.contender, each.seconds, each.rate, each.peak, each.beside, each.loss, each.verdict)
        for each in lines
    ]
    table = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    intro = (
        "Written by `make bench`; do not edit. One process for each contender, which take turns; a row's seconds are "
        "the median of its timed repeats, and its peak memory is its process's own (VmHWM, from when it had loaded)."
    )
    parts = ["# Side by side with PEFT, TRL and transformers", intro, "\n".join(facts), "\n".join(table)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"
