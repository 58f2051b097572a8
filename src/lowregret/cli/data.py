"""`lowregret data`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import LIBRARIES, say, say_json
from lowregret.spec import DataSpec, build

if TYPE_CHECKING:
    from rich.console import Console

    from lowregret.data.overview import Overview, Part

ASKS = VerbFlags(
    DataSpec,
    leaves_out={"it is the argument": ("train",), "bad rows are counted here, and never the end": ("skip_bad_rows",)},
)
_BASE = "tiny"
_WIDEST = 104
_BAR = 40
"""Columns of the longest bar."""
_NEAR_SHOWN = 5


@verb("data", ASKS.parameters())
def data(
    source: Annotated[
        str, positional("Rows: a file, a folder, a hub dataset id, or builtin:NAME.", "DATA", required=True)
    ],
    /,
    *,
    model: Annotated[
        str | None,
        option("The base whose tokenizer and chat template are used. (default: tiny, whose words take many tokens)"),
    ] = None,
    row: Annotated[
        str | None,
        option("Which row to show, as errors name it: 7, or FILE:7 where there are several. (default: the first)"),
    ] = None,
    html: Annotated[Path | None, option("Also write it as a page.")] = None,
    as_json: o.Json = False,
    **flags: Any,
) -> None:
    """`lowregret data train.jsonl --model qwen3-8b/`. Nothing is trained. Exit code 2 when nothing can be used."""
    from lowregret.cli.progress import activities_shown

    base = model or _BASE
    with activities_shown():
        with doing(LIBRARIES):
            from lowregret.data.look import overview
            from lowregret.models.load import load_tokenizer, resolve
        found = overview(build(DataSpec, {"train": source, **flags}), load_tokenizer(resolve(base)), row)
    if html is not None:
        from lowregret.report.pages.data import write_page

        write_page(found, base, html)
    if as_json:
        say_json(asdict(found))
        return
    from lowregret.progress.console import make_console

    console = make_console()
    console.width = min(console.width, _WIDEST)
    _print(found, console)
    if html is not None:
        say(str(html))


def _print(found: Overview, console: Console) -> None:
    from rich.text import Text

    console.print(Text(found.shown.row, style="bold"), "(supervised tokens are coloured, between ⟦ ⟧)")
    row = Text()
    for text, supervised in found.shown.stretches:
        row.append(f"⟦{text}⟧" if supervised else text, style="bold green" if supervised else "dim")
    console.print(row)
    console.print()
    for line in found.lines:
        console.print(Text(line))
    if found.turns is not None:
        console.print(f"turns of a row: {found.turns:.1f} in the mean")
    console.print(f"languages: {found.spoken}")
    for name, part in (("train", found.train), ("held out", found.held_out)):
        if part is not None:
            console.print(_part(name, part))
    if found.near:
        console.print(f"near-duplicates of held-out examples: {len(found.near):,} training examples")
        for near in found.near[:_NEAR_SHOWN]:
            console.print(f"  {near.train_row} and held-out {near.held_out_row}: {near.alike:.0%} alike")


def _part(name: str, part: Part) -> str:
    lines = [
        f"{name}: {part.examples:,} examples, {part.supervised_share:.0%} of the tokens supervised; the median has "
        f"{part.median:,} tokens, the longest {part.longest:,}"
        + (f"; {part.repeats:,} repeat an earlier one" if part.repeats else "")
    ]
    most = max(bar.count for bar in part.histogram)
    width = max(len(f"{bar.high:,}") for bar in part.histogram)
    for bar in part.histogram:
        length = round(_BAR * bar.count / most) or (1 if bar.count else 0)
        lines.append(f"  {f'≤ {bar.high:,}':>{width + 2}} tokens {'█' * length} {bar.count:,}")
    return "\n".join(lines)
