"""The figures of studies as static files, for papers: SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowregret.foreign import real_path
from lowregret.questions.evidence import read_evidence
from lowregret.questions.registry import figures
from lowregret.report.charts.drawing import save, svg
from lowregret.runs.atomic import make_folder, write_bytes


def write_figures(folders: Sequence[Path], target: Path) -> list[Path]:
    """Every figure of these studies, named by its key, behind its folder's name where another has it; the files."""
    make_folder(target)
    found: list[Path] = []
    for folder in folders:
        for drawn in figures(read_evidence(folder)):
            taken = target / f"{drawn.key}.svg" in found
            name = f"{real_path(folder).name}-{drawn.key}" if taken else drawn.key
            vector, pixels = target / f"{name}.svg", target / f"{name}.png"
            write_bytes(vector, svg(drawn.chart).encode())
            save(drawn.chart, pixels)
            found += [vector, pixels]
    return found
