"""The command line: `lowregret VERB`. One file a verb; nothing heavy is imported before a verb runs."""

from __future__ import annotations

from typing import Annotated

import typer

from lowregret.cli.compare import compare
from lowregret.cli.eval import evaluate
from lowregret.cli.export import export
from lowregret.cli.plan import plan
from lowregret.cli.report import report
from lowregret.cli.study import study
from lowregret.cli.train import train
from lowregret.cli.verify import verify
from lowregret.version import __version__

app = typer.Typer(
    name="lowregret",
    help="LoRA or full fine-tuning? Measure the regret, with an error bar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("plan")(plan)
app.command("compare")(compare)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("report")(report)
app.command("study")(study)
app.command("verify")(verify)
app.command("export")(export)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lowregret {__version__}")
        raise typer.Exit


@app.callback()
def _lowregret(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
