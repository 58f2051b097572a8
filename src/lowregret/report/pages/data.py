"""The page of `lowregret data`: one row as the base sees it, and all rows in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret.report.pages.document import document
from lowregret.report.pages.templates import render
from lowregret.runs.atomic import write_bytes
from lowregret.version import __version__

if TYPE_CHECKING:
    from lowregret.data.overview import Overview, Part

_NEAR_SHOWN = 50


def write_page(found: Overview, model: str, path: Path) -> None:
    """Write the page, atomically."""
    write_bytes(path, page(found, model).encode())


def page(found: Overview, model: str) -> str:
    """The page; pure."""
    parts = [("train", "Training examples", found.train), ("held-out", "Held-out examples", found.held_out)]
    facts = [("Languages", found.spoken)]
    if found.turns is not None:
        facts.insert(0, ("Turns of a row", f"{found.turns:.1f} in the mean"))
    body = render(
        "data",
        found=found,
        model=model,
        headline=f"{found.train.examples:,} {_noun(found.train.examples)} to train on",
        facts=facts,
        parts=[_part(key, title, part) for key, title, part in parts if part is not None],
        near=[
            {"train": near.train_row, "held_out": near.held_out_row, "alike": f"{near.alike:.0%}"}
            for near in found.near[:_NEAR_SHOWN]
        ],
        near_said=f"{len(found.near):,} training examples share most runs of three tokens with a held-out one; "
        "the most alike first.",
    )
    return document(f"Data: {found.source}", __version__, body, made_from=found.source)


def _noun(count: int) -> str:
    return "example" if count == 1 else "examples"


def _part(key: str, title: str, part: Part) -> dict[str, Any]:
    facts = [
        ("Examples", f"{part.examples:,}" + (f", {part.repeats:,} repeat an earlier one" if part.repeats else "")),
        ("Tokens", f"{part.tokens:,}; the median example has {part.median:,}, the longest {part.longest:,}"),
        ("Supervised", f"{part.supervised_tokens:,} ({part.supervised_share:.0%})"),
    ]
    bars = [
        {"range": f"{bar.low:,} to {bar.high:,}", "count": bar.count, "said": f"{bar.count:,}"}
        for bar in part.histogram
    ]
    most = max(bar.count for bar in part.histogram)
    return {"key": key, "title": title, "facts": facts, "most": most, "bars": bars}
