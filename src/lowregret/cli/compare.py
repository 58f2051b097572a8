"""`lowregret compare`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.config import show_config as print_config
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option
from lowregret.cli.outcome import LIBRARIES, command_line, plain, say_json
from lowregret.cli.specs import chosen_file, filled_in, make_spec
from lowregret.cli.watch import watched
from lowregret.digests import forget_digests
from lowregret.errors import SpecError
from lowregret.spec import CompareSpec

if TYPE_CHECKING:
    from lowregret.runs.verdict import Verdict

ASKS = VerbFlags(CompareSpec)


@verb("compare", ASKS.parameters())
def compare(
    *,
    config: o.Config = None,
    recipe: o.Recipe = None,
    out: Annotated[Path | None, option("The study's folder. (default: runs/compare-…, named by the spec)")] = None,
    as_json: o.Json = False,
    track: o.Track = None,
    rehash: o.Rehash = False,
    yes: o.Yes = False,
    show_config: o.ShowConfig = False,
    watch: o.Watch = False,
    quiet: o.Quiet = False,
    **flags: Any,
) -> None:
    """Brackets each method's best learning rate, repeats it over seeds, and judges the regret with an interval."""
    spec = comparison_spec(config, recipe, flags)
    if show_config:
        print_config({"": spec}, as_json)
        return
    folder = out or comparison_folder(spec)
    if rehash:
        forget_digests()
    from lowregret.cli.progress import live_progress

    with live_progress(quiet=quiet, to_stderr=as_json, yes=yes) as progress, watched(watch, [folder], progress.say):
        progress.say(f"study: {folder}")
        progress.say(filled_in(spec))
        with doing(LIBRARIES):
            from lowregret.analysis.forecast.banks import bank_if_readable
            from lowregret.report.pages.html import write_report
            from lowregret.runs.study import trial_folders
            from lowregret.study.runner import compare as run
            from lowregret.study.tracking.tracker import tracked
            from lowregret.train.liveness import untrained_experts

        known = bank_if_readable(progress.say) if spec.until_decided else None
        with tracked(track, folder, progress) as watching:
            verdict = run(spec, folder, command=command_line(), observer=watching, bank=known)
        for line in untrained_experts(trial_folders(folder)):
            progress.say(line)
        page = write_report(folder)
    if as_json:
        say_json(plain(verdict))
    else:
        _show(folder, verdict, page)


def comparison_spec(config: Path | None, recipe: str | None, flags: dict[str, Any]) -> CompareSpec:
    """The comparison that a file of keys and these flags ask for."""
    if "methods" in flags:
        flags["methods"] = flags["methods"].split(",")
    if "learning_rates" in flags:
        flags["learning_rates"] = _rates(flags["learning_rates"])
    return make_spec(CompareSpec, chosen_file("compare", config, recipe), flags)


def comparison_folder(spec: CompareSpec) -> Path:
    """Where a comparison goes when nobody says: readable and unique, so that the same spec gets the same folder."""
    digest = hashlib.sha256(spec.model_dump_json(exclude=set(spec.FREE)).encode()).hexdigest()[:8]
    return Path("runs") / f"compare-{Path(spec.model).stem or 'model'}-{digest}"


def _show(folder: Path, verdict: Verdict, page: Path) -> None:
    from rich.text import Text

    from lowregret.analysis.settle import settling_command
    from lowregret.progress.console import make_console
    from lowregret.report.pages.captions import headline
    from lowregret.report.reading import load_study

    console = make_console()
    console.print(Text(headline(load_study(folder))))
    for reason in verdict.reasons:
        console.print(Text(f"- {reason}"))
    for more in () if verdict.settling is None else verdict.settling.options:
        console.print(Text(f"to settle it: {settling_command(command_line(), str(folder), more)}"), soft_wrap=True)
    console.print(Text(f"report: {page}"), soft_wrap=True)


def _rates(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return [float(rate) for rate in text.split(",")]
    except ValueError:
        raise SpecError(
            f"--learning-rates {text!r}: give auto, or numbers separated by commas such as 1e-4,2e-4,4e-4."
        ) from None
