"""`lowregret report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowregret.cli.outcome import exit_codes


def report(
    folder: Annotated[
        Path, typer.Argument(help="A study's folder, as `lowregret compare` left it.", show_default=False)
    ],
) -> None:
    """Write report.html again from a study's records; nothing is trained."""
    with exit_codes():
        from lowregret.errors import RecordsError
        from lowregret.report.html import write_report

        if not (folder / "spec.json").is_file():
            raise RecordsError(
                f"{folder}: is no study: it holds no spec.json. Name a folder that `lowregret compare` wrote."
            )
        typer.echo(str(write_report(folder)))
