"""`lowregret forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.compare import ASKS, comparison_folder, comparison_spec
from lowregret.cli.config import show_config as print_config
from lowregret.cli.options import option
from lowregret.cli.outcome import LIBRARIES, command_line, plain, say_json
from lowregret.cli.specs import filled_in
from lowregret.cli.watch import watched
from lowregret.runs.forecast import require_share

if TYPE_CHECKING:
    from lowregret.runs.forecast import Forecast

_USUAL = 0.2


@verb("forecast", ASKS.parameters())
def forecast(
    *,
    budget: Annotated[
        str | None,
        option("Share of a trial's steps that its pilot takes, up to 50%; or free, to train nothing. (default: 20%)"),
    ] = None,
    bank: o.BankFile = None,
    config: o.Config = None,
    recipe: o.Recipe = None,
    out: Annotated[Path | None, option("The study's folder. (default: that of `compare` with the same spec)")] = None,
    as_json: o.Json = False,
    yes: o.Yes = False,
    show_config: o.ShowConfig = False,
    watch: o.Watch = False,
    quiet: o.Quiet = False,
    **flags: Any,
) -> None:
    """Trains every trial of a search a part of its way, and says what the regret will be at the end, with an interval
    that the bank of finished comparisons calibrates. `lowregret compare` with the same spec goes on from there. With
    `--budget free` nothing is trained, and the forecast is by the parameters and the placement of each adapter.
    """
    spec, share = comparison_spec(config, recipe, flags), _share(budget)
    if show_config:
        print_config({"": spec}, as_json)
        return
    folder = out or comparison_folder(spec)
    from lowregret.analysis.forecast.banks import load_bank
    from lowregret.cli.progress import live_progress

    known = load_bank(bank)
    with live_progress(quiet=quiet, to_stderr=as_json, yes=yes) as progress, watched(watch, [folder], progress.say):
        progress.say(f"study: {folder}")
        progress.say(filled_in(spec))
        with doing(LIBRARIES):
            from lowregret.study.forecasting import forecast as run

        found = run(spec, folder, share=share, bank=known, command=command_line(), observer=progress)
    if as_json:
        say_json(plain(found))
    else:
        _show(found)


def _show(found: Forecast) -> None:
    from rich.text import Text

    from lowregret.analysis.forecast.words import sentences
    from lowregret.progress.console import make_console

    console = make_console()
    for sentence in sentences(found):
        console.print(Text(sentence))


def _share(text: str | None) -> float | None:
    if text is None:
        return _USUAL
    if text == "free":
        return None
    number = text.removesuffix("%")
    try:
        share = float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    return require_share(share, f"--budget {text!r}", "free", "10% or 0.2")
