"""`lowregret report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowregret.cli.outcome import aside, exit_codes


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="A folder of `lowregret compare`, or any number of `lowregret study`.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where report.html goes. (default: the first folder)", show_default=False),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Also write each figure of the studies here, as SVG and PNG.", show_default=False),
    ] = None,
) -> None:
    """Write report.html again from records; nothing is trained.

    Several studies make one page: the claims first, then each figure.
    """
    with exit_codes():
        from lowregret.errors import SpecError

        first = folders[0]
        if len(folders) == 1 and (first / "spec.json").is_file():
            from lowregret.report.pages.html import write_report

            if out is not None or figures is not None:
                raise SpecError("--out and --figures are of use with studies only, not with a compare. Leave them out.")
            typer.echo(str(write_report(first)))
            return
        from lowregret.report.figure_files import write_figures
        from lowregret.report.finding import find_studies
        from lowregret.report.pages.studies import write_page
        from lowregret.runs.atomic import make_folder

        studies = find_studies(folders, aside)
        root = out or first
        make_folder(root)
        if figures is not None:
            for path in write_figures(studies, figures):
                typer.echo(str(path))
        typer.echo(str(write_page(studies, root)))
