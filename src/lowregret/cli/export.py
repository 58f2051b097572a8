"""`lowregret export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowregret.cli.outcome import exit_codes


def export(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `lowregret study` has left.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(help="A .csv or .parquet file, or a .db that optuna-dashboard opens.", show_default=False),
    ],
    table: Annotated[str, typer.Option(help="trials, curves or claims; a .db has trials and curves.")] = "trials",
) -> None:
    """Write the trials, curves or claims of studies for other programs."""
    with exit_codes():
        from lowregret.errors import SpecError, did_you_mean
        from lowregret.report.export import TABLES
        from lowregret.report.export import export as write
        from lowregret.report.studies import find_studies

        if table not in TABLES:
            raise SpecError(f"--table {table!r}: no such table. {did_you_mean(table, TABLES)}")
        rows = write(find_studies(folders), out, table)
        typer.echo(f"{out}: {rows} rows")
