"""The figures of studies as static files, for papers: SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowregret.analysis.evidence import read_evidence
from lowregret.records import make_folder, write_bytes
from lowregret.report.drawing import save, svg


def write_figures(folders: Sequence[Path], target: Path) -> list[Path]:
    """Every figure of these studies, named by its key; returns the files."""
    from lowregret.report.study_figures import figures

    make_folder(target)
    found = []
    for folder in folders:
        for drawn in figures(read_evidence(folder)):
            vector, pixels = target / f"{drawn.key}.svg", target / f"{drawn.key}.png"
            write_bytes(vector, svg(drawn.chart).encode())
            save(drawn.chart, pixels)
            found += [vector, pixels]
    return found
