"""`lowregret train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.config import show_config as print_config
from lowregret.cli.flags import VerbFlags
from lowregret.cli.options import option
from lowregret.cli.outcome import LIBRARIES, command_line, plain, say, say_json
from lowregret.cli.specs import chosen_file, filled_in, make_spec
from lowregret.cli.watch import watched
from lowregret.digests import forget_digests
from lowregret.spec import TrainSpec

ASKS = VerbFlags(TrainSpec)


@verb("train", ASKS.parameters())
def train(
    *,
    out: Annotated[Path, option("The run's folder.")],
    config: o.Config = None,
    recipe: o.Recipe = None,
    as_json: o.Json = False,
    track: o.Track = None,
    rehash: o.Rehash = False,
    yes: o.Yes = False,
    show_config: o.ShowConfig = False,
    watch: o.Watch = False,
    quiet: o.Quiet = False,
    **flags: Any,
) -> None:
    """Leaves trial.json, metrics.jsonl and adapter/ (PEFT's format) or model/ in the folder."""
    spec = make_spec(TrainSpec, chosen_file("train", config, recipe), flags)
    if show_config:
        print_config({"": spec}, as_json)
        return
    if rehash:
        forget_digests()
    from lowregret.cli.progress import live_progress

    with live_progress(quiet=quiet, to_stderr=as_json, yes=yes) as progress, watched(watch, [out], progress.say):
        progress.say(filled_in(spec))
        with doing(LIBRARIES):
            from lowregret.study.tracking.tracker import tracked
            from lowregret.train.job import fine_tune as run

        with tracked(track, out, progress) as watching:
            record = run(
                spec, out, command=command_line(), say=watching.say, on_step=watching.step, priced=watching.priced
            )
    if as_json:
        say_json(plain(record))
        return
    from lowregret.analysis.numbers import nats
    from lowregret.runs.study import shipped_folder

    shipped = out / shipped_folder(record)
    if record.test_reward is not None:
        found = f"reward {record.test_reward:.4f}"
    elif record.test_nll is not None:
        found = f"loss {nats(record.test_nll)} nats per supervised token"
    else:
        found = "loss none"
    note = f"\n{record.note}" if record.note else ""
    say(f"held-out {found} after {record.steps} steps, {record.seconds:.1f} s; {shipped}{note}")
