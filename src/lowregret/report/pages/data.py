"""The page of `lowregret data`: one row as the base sees it, and all rows in numbers."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lowregret.report.pages.document import document, section
from lowregret.report.pages.tables import text
from lowregret.runs.atomic import write_bytes
from lowregret.version import __version__

if TYPE_CHECKING:
    from lowregret.data.overview import Overview, Part, Shown

_NEAR_SHOWN = 50


def write_page(found: Overview, model: str, path: Path) -> None:
    """Write the page, atomically."""
    write_bytes(path, page(found, model).encode())


def page(found: Overview, model: str) -> str:
    """The page; pure."""
    lines = "".join(f"<li>{text(line.strip())}</li>\n" for line in found.lines)
    parts = [("train", "Training examples", found.train), ("held-out", "Held-out examples", found.held_out)]
    body = [
        f'<header>\n<p class="topline">{escape(found.source)}, as {escape(model)} sees it</p>\n'
        f"<h1>{found.train.examples:,} {_noun(found.train.examples)} to train on</h1>\n</header>",
        section("row", f"One row: {found.shown.row}", _row(found.shown)),
        section("found", "What was found", f"<ul>\n{lines}</ul>{_facts(found)}"),
        *(section(key, title, _part(part)) for key, title, part in parts if part is not None),
    ]
    if found.near:
        body.append(section("near", "Near-duplicates across the split", _near(found)))
    return document(f"Data: {found.source}", __version__, "\n".join(body), {}, made_from=found.source)


def _noun(count: int) -> str:
    return "example" if count == 1 else "examples"


def _row(shown: Shown) -> str:
    stretches = "".join(
        f"<mark>{escape(words)}</mark>" if supervised else f"<span>{escape(words)}</span>"
        for words, supervised in shown.stretches
    )
    return (
        f'<pre class="example" tabindex="0">{stretches}</pre>\n'
        '<p class="note">Marked: the tokens that the loss counts. All else is read, not learnt.</p>'
    )


def _facts(found: Overview) -> str:
    rows = [("Languages", found.spoken)]
    if found.turns is not None:
        rows.insert(0, ("Turns of a row", f"{found.turns:.1f} in the mean"))
    return _pairs(rows)


def _part(part: Part) -> str:
    facts = [
        ("Examples", f"{part.examples:,}" + (f", {part.repeats:,} repeat an earlier one" if part.repeats else "")),
        ("Tokens", f"{part.tokens:,}; the median example has {part.median:,}, the longest {part.longest:,}"),
        ("Supervised", f"{part.supervised_tokens:,} ({part.supervised_share:.0%})"),
    ]
    most = max(bar.count for bar in part.histogram)
    bars = "".join(
        f'<tr><th scope="row" class="number">{bar.low:,} to {bar.high:,}</th><td class="bar">'
        f'<meter min="0" max="{most}" value="{bar.count}">{bar.count:,}</meter></td>'
        f'<td class="number">{bar.count:,}</td></tr>\n'
        for bar in part.histogram
    )
    heads = (
        '<th scope="col" class="number">Tokens</th><th scope="col"></th><th scope="col" class="number">Examples</th>'
    )
    return (
        f'{_pairs(facts)}\n<div class="scroll" tabindex="0"><table class="bars">\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{bars}</tbody></table></div>"
    )


def _near(found: Overview) -> str:
    rows = "".join(
        f"<tr><td>{escape(near.train_row)}</td><td>{escape(near.held_out_row)}</td>"
        f'<td class="number">{near.alike:.0%}</td></tr>\n'
        for near in found.near[:_NEAR_SHOWN]
    )
    heads = "".join(f'<th scope="col" class="number">{name}</th>' for name in ("Training row", "Held-out row", "Alike"))
    return (
        f'<p class="note">{len(found.near):,} training examples share most runs of three tokens with a held-out one; '
        f"the most alike first.</p>\n"
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>"
    )


def _pairs(rows: list[tuple[str, str]]) -> str:
    inner = "".join(f"<div><dt>{escape(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return f'<dl class="pairs">{inner}</dl>'
