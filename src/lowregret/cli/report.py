"""`lowregret report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.options import option, positional
from lowregret.cli.outcome import aside, say, say_json
from lowregret.errors import SpecError
from lowregret.runs.files import REPORT, SPEC


@verb("report")
def report(
    *folders: Annotated[
        Path,
        positional("A folder of `compare` or `train`, or any number of `lowregret study`.", "FOLDER", required=True),
    ],
    out: Annotated[Path | None, option(f"Where {REPORT} goes. (default: the first folder)")] = None,
    figures: Annotated[Path | None, option("Also write each figure of the studies here, as SVG and PNG.")] = None,
    as_json: o.Json = False,
) -> None:
    """Several studies make one page: the claims first, then each figure."""
    from lowregret.cli.progress import activities_shown

    with activities_shown():
        drawn, page = _write(folders, out, figures)
    if as_json:
        say_json({"report": str(page), "figures": [str(path) for path in drawn]})
        return
    for path in (*drawn, page):
        say(str(path))


def _write(folders: Sequence[Path], out: Path | None, figures: Path | None) -> tuple[list[Path], Path]:
    """The figures and the page."""
    first = folders[0]
    if len(folders) == 1 and (first / SPEC).is_file():
        from lowregret.report.pages.html import write_report

        if out is not None or figures is not None:
            raise SpecError("--out and --figures are of use with studies only. Leave them out.")
        return [], write_report(first, aside)
    from lowregret.report.figure_files import write_figures
    from lowregret.report.finding import find_studies
    from lowregret.report.pages.studies import write_page
    from lowregret.runs.atomic import make_folder

    studies = find_studies(folders, aside)
    root = out or first
    make_folder(root)
    drawn = list(write_figures(studies, figures)) if figures is not None else []
    return drawn, write_page(studies, root)
