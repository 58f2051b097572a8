"""A table of losses by model, LoRA rank and learning rate, and what a rate gives away in it. Torch-free."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lowregret.errors import DataError, ModelError
from lowregret.plan.rates.law import group_of
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes

COLUMNS = ("model", "lora_rank", "learning_rate", "test_nll")
_BEYOND = 0.5
"""e-folds above the grid's highest rate within which an optimum is believed."""


@dataclass(frozen=True)
class Parabola:
    """loss(x) = lowest + curvature · ((x − vertex)² − (optimum − vertex)²), with x = ln rate."""

    curvature: float
    """nats per squared e-fold; positive."""
    vertex: float
    optimum: float
    """The vertex, or the end nearest to it of where it is looked for: the grid, and half an e-fold above."""
    lowest: float
    """Loss at the optimum, nats per token."""

    def given_away(self, log_rate: float) -> float:
        """Percent of loss above the optimum's. Below zero towards a vertex that lies out of bounds."""
        above = self.curvature * ((log_rate - self.vertex) ** 2 - (self.optimum - self.vertex) ** 2)
        return 100 * above / self.lowest

    @property
    def percent_curvature(self) -> float:
        """Percent of loss per squared e-fold."""
        return 100 * self.curvature / self.lowest


@dataclass(frozen=True)
class Cell:
    """One model at one rank, over all its rates."""

    model: str
    rank: int
    family: str
    """The family whose offset it shares (`law.group_of`)."""
    hidden_size: int
    total: int
    """Parameters."""
    parabola: Parabola


def read_sweep(path: Path) -> list[Cell]:
    """The cells that have a parabola, in the order of the file.

    The CSV has the columns model, lora_rank, learning_rate and test_nll (nats per token); others are ignored. Where a
    rate occurs twice in a cell, the last row counts. Models are looked up as `lowregret plan` does. DataError: names
    the line and the column at fault.
    """
    losses: dict[tuple[str, int], dict[float, float]] = {}
    models: dict[str, Shapes] = {}
    for line, row in _rows(path):
        name, rank = row["model"], _rank(row["lora_rank"], path, line)
        if name not in models:
            try:
                models[name] = find_model(name)
            except ModelError as error:
                raise DataError(f"column 'model': {error}", source=path, line=line) from error
        rate = _positive(row["learning_rate"], "learning_rate", path, line)
        losses.setdefault((name, rank), {})[math.log(rate)] = _positive(row["test_nll"], "test_nll", path, line)
    facts = {name: (group_of(found.family), found.hidden_size, found.total) for name, found in models.items()}
    cells = []
    for (name, rank), cell in losses.items():
        parabola = fit_parabola(cell)
        if parabola is not None:
            cells.append(Cell(name, rank, *facts[name], parabola))
    if not cells:
        raise DataError("no model and rank has three rates and a minimum. Give a sweep's table.", source=path)
    return cells


def fit_parabola(losses: Mapping[float, float]) -> Parabola | None:
    """Through the best of {ln rate: loss} and its two neighbours; None with fewer than three, or without a minimum."""
    points = sorted(losses.items())
    if len(points) < 3:
        return None
    best = min(range(len(points)), key=lambda index: points[index][1])
    middle = min(max(best, 1), len(points) - 2)
    (x0, y0), (x1, y1), (x2, y2) = points[middle - 1 : middle + 2]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:
        return None
    vertex = (x0 + x1) / 2 - left / (2 * curvature)
    optimum = min(max(vertex, points[0][0]), points[-1][0] + _BEYOND)
    bottom = y1 - curvature * (x1 - vertex) ** 2
    return Parabola(curvature, vertex, optimum, bottom + curvature * (optimum - vertex) ** 2)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines, counted from 1, and their cells; every column that is needed is there."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"the header has no column {', '.join(map(repr, missing))}. Needed: {', '.join(COLUMNS)}.",
                    source=path,
                    line=1,
                )
            for row in reader:
                for name in COLUMNS:
                    if not row[name]:
                        raise DataError(f"column {name!r}: is empty. Fill it in.", source=path, line=reader.line_num)
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV: {error}. Give a file as in docs/science.md 4.", source=path) from error


def _rank(text: str, path: Path, line: int) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"column 'lora_rank': {text!r} is no rank. Give a whole number from 1.", source=path, line=line)
    return int(text)


def _positive(text: str, column: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise DataError(f"column {column!r}: {text!r} is no number above 0.", source=path, line=line)
    return value
