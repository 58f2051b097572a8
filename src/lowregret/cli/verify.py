"""`lowregret verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowregret.cli.outcome import aside, exit_codes

DIFFERS = 1


def verify(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders that `lowregret study` or `compare` has left, or one that holds such folders."),
    ],
) -> None:
    """Compute every claim and verdict again from the raw records alone, and compare with what is stored.

    Exit code 0 when all agree, 1 when something differs.
    """
    with exit_codes():
        from lowregret.report.finding import find_studies
        from lowregret.report.verification import verify_folder

        differences = 0
        for folder in find_studies(folders, aside, compares=True):
            found = verify_folder(folder)
            for line in found.lines:
                typer.echo(f"{folder}: {line}")
            differences += len(found.differences)
            for line in found.differences:
                typer.echo(f"{folder}: DIFFERS: {line}")
        if differences:
            raise typer.Exit(DIFFERS)
