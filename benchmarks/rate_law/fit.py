"""Fit the law of law.py to a sweep, judge it on models left out, and print the constants to paste.

    python -m benchmarks.rate_law.fit SWEEP.csv

The law is linear in ln rate, and a cell's percentage given away is a parabola in ln rate, so what is minimised is the
yardstick itself: least squares about the measured optima, weighted by curvature. Size and family are held towards 0 by
ridge penalties, chosen by leave-one-model-out on the models that are fitted. Wherever a model is left out, it is left
out of that choice as well.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from benchmarks.rate_law.sweep import Cell, read_sweep
from numpy.typing import NDArray

from lowregret.analysis.rates import formula_rate
from lowregret.errors import LowregretError
from lowregret.plan.rates.law import LAW, SIZE_UNIT, Law, effective_rank

_PENALTIES = (0.3, 1.0, 3.0, 10.0)
"""Percent of loss that a parameter of 1 costs, all cells together."""
_LARGEST_WEIGHT = 2.0
"""Times the median curvature. A grid with close rates can give a parabola whose curvature is noise (up to six times the
median here); it must not outvote the other cells."""
_COVERAGE = 0.9

Predictions = list[float]
"""ln rate for each cell."""


def fit(cells: Sequence[Cell], penalties: tuple[float, float] | None = None) -> Law:
    """The law that gives away least on `cells`; its widths are those of LAW.

    `penalties` are of the size's power and of the families' offsets; when None, those of the 16 pairs that give away
    least under leave-one-model-out within `cells`.
    """
    if penalties is None:
        penalties = min(product(_PENALTIES, _PENALTIES), key=lambda pair: _left_out_loss(cells, pair))
    families = sorted({cell.family for cell in cells})
    design = np.array(
        [
            [
                1.0,
                math.log(effective_rank(cell.rank)),
                math.log(cell.total / SIZE_UNIT),
                *(float(cell.family == family) for family in families),
            ]
            for cell in cells
        ]
    )
    curvatures = np.array([cell.parabola.percent_curvature for cell in cells])
    weights = np.minimum(curvatures, _LARGEST_WEIGHT * float(np.median(curvatures)))
    optima = np.array([cell.parabola.optimum for cell in cells])
    solved = _ridge(design, weights, optima, np.array([0.0, 0.0, penalties[0], *[penalties[1]] * len(families)]))
    totals = [cell.total for cell in cells]
    return Law(
        level=math.exp(solved[0]),
        rank_power=float(solved[1]),
        size_power=float(solved[2]),
        offsets={family: float(offset) for family, offset in zip(families, solved[3:], strict=True)},
        width=LAW.width,
        width_unknown=LAW.width_unknown,
        sizes=(float(min(totals)), float(max(totals))),
    )


def _ridge(
    design: NDArray[np.float64], weights: NDArray[np.float64], target: NDArray[np.float64], penalty: NDArray[np.float64]
) -> NDArray[np.float64]:
    """argmin of Σ weights · (design · x − target)² + Σ penalty · x²; the smallest x where several are."""
    root = np.sqrt(weights)
    rows = np.vstack([design * root[:, None], np.diag(np.sqrt(penalty))])
    wanted = np.concatenate([target * root, np.zeros(len(penalty))])
    return np.asarray(np.linalg.lstsq(rows, wanted, rcond=None)[0], dtype=np.float64)


def _left_out_loss(cells: Sequence[Cell], penalties: tuple[float, float]) -> float:
    if len({cell.model for cell in cells}) < 2:
        return 0.0
    return statistics.mean(gaps(cells, left_out(cells, _model, lambda rest: fit(rest, penalties))))


def left_out(
    cells: Sequence[Cell], group: Callable[[Cell], str], fitter: Callable[[Sequence[Cell]], Law] = fit
) -> Predictions:
    """What the law says of each cell when it is fitted without the cell's group."""
    laws = {name: fitter([cell for cell in cells if group(cell) != name]) for name in {group(cell) for cell in cells}}
    return [laws[group(cell)].log_rate(cell.family, cell.total, cell.rank) for cell in cells]


def in_sample(cells: Sequence[Cell], law: Law) -> Predictions:
    """What `law` says of each cell."""
    return [law.log_rate(cell.family, cell.total, cell.rank) for cell in cells]


def gaps(cells: Sequence[Cell], predictions: Predictions) -> list[float]:
    """Percent of loss given away in each cell."""
    return [cell.parabola.given_away(log_rate) for cell, log_rate in zip(cells, predictions, strict=True)]


def _model(cell: Cell) -> str:
    return cell.model


def _family(cell: Cell) -> str:
    return cell.family


def _organisation(cell: Cell) -> str:
    return cell.model.partition("/")[0]


def _rank_law(cells: Sequence[Cell]) -> Law:
    """Level and rank alone: a penalty that lets nothing else differ from 0."""
    return fit(cells, (1e12, 1e12))


# --- what it is compared with ---------------------------------------------------------------------------------------


def _formula(cell: Cell) -> float:
    """SCIENCE 3.11 with M = 10; for families that it does not name, the mean of its two powers."""
    return math.log(formula_rate(cell.family, cell.hidden_size))


@dataclass(frozen=True)
class Protocol:
    """A recommender, and what it was not allowed to see."""

    name: str
    predictions: Predictions


def protocols(cells: Sequence[Cell]) -> list[Protocol]:
    """Everything that is compared, the law first."""
    return [
        Protocol("the law, in sample", in_sample(cells, fit(cells))),
        Protocol("the law, leave one model out", left_out(cells, _model)),
        Protocol("the law, leave one family out", left_out(cells, _family)),
        Protocol("the law, leave one organisation out", left_out(cells, _organisation)),
        Protocol("level and rank only, in sample", in_sample(cells, _rank_law(cells))),
        Protocol("level and rank only, leave one model out", left_out(cells, _model, _rank_law)),
        Protocol("1.7e-4 r^0.31", [math.log(1.7e-4) + 0.31 * math.log(cell.rank) for cell in cells]),
        Protocol("the published formula", [_formula(cell) for cell in cells]),
        Protocol("constant 3e-4", [math.log(3e-4)] * len(cells)),
    ]


def calibrated(cells: Sequence[Cell], known: Predictions, unknown: Predictions, law: Law) -> Law:
    """`law` with the widths that hold 90 % of the optima of models and of families that were left out, to 3 digits."""

    def width(predictions: Predictions) -> float:
        away = [abs(cell.parabola.optimum - log_rate) for cell, log_rate in zip(cells, predictions, strict=True)]
        return float(np.quantile(away, _COVERAGE, method="higher"))

    return rounded(replace(law, width=width(known), width_unknown=width(unknown)))


def rounded(law: Law) -> Law:
    """To the digits that are committed; the sizes outwards."""

    def short(value: float) -> float:
        return float(f"{value:.3g}")

    return Law(
        short(law.level),
        short(law.rank_power),
        short(law.size_power),
        {family: short(offset) for family, offset in law.offsets.items()},
        short(law.width),
        short(law.width_unknown),
        (_three_digits(law.sizes[0], math.floor), _three_digits(law.sizes[1], math.ceil)),
    )


def _three_digits(value: float, to_whole: Callable[[float], int]) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{to_whole(value / unit) * unit:.3g}")


# --- what is printed ------------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell], found: Sequence[Protocol]) -> str:
    """Percent given away: mean, median and worst of each protocol, and its mean in each family. Markdown."""
    families = sorted({cell.family for cell in cells})
    counts = [sum(cell.family == family for cell in cells) for family in families]
    heads = [f"{family} ({count})" for family, count in zip(families, counts, strict=True)]
    lines = [
        f"| % of loss given away ({len(cells)} cells) | mean | median | worst | " + " | ".join(heads) + " |",
        "|---|" + "---|" * (3 + len(families)),
    ]
    for protocol in found:
        away = gaps(cells, protocol.predictions)
        means = [
            statistics.mean(gap for cell, gap in zip(cells, away, strict=True) if cell.family == family)
            for family in families
        ]
        numbers = [f"{statistics.mean(away):.3f}", f"{statistics.median(away):.3f}", f"{max(away):.2f}"]
        lines.append(f"| {protocol.name} | " + " | ".join([*numbers, *(f"{mean:.2f}" for mean in means)]) + " |")
    return "\n".join(lines)


def constants(law: Law) -> str:
    """The assignment to paste into law.py."""
    offsets = "".join(f'        "{family}": {offset:g},\n' for family, offset in law.offsets.items())
    return (
        f"LAW = Law(\n    level={law.level:g},\n    rank_power={law.rank_power:g},\n"
        f"    size_power={law.size_power:g},\n"
        f"    offsets={{\n{offsets}    }},\n    width={law.width:g},\n    width_unknown={law.width_unknown:g},\n"
        f"    sizes=({law.sizes[0]:g}, {law.sizes[1]:g}),\n)"
    )


def refit(cells: Sequence[Cell]) -> tuple[Law, list[Protocol]]:
    """The law to commit, and what it is judged by."""
    found = protocols(cells)
    return calibrated(cells, found[1].predictions, found[2].predictions, fit(cells)), found


def main(arguments: Sequence[str]) -> int:
    """0, or 2 with a message when the table cannot be used."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        cells = read_sweep(Path(arguments[0]))
    except LowregretError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    law, found = refit(cells)
    print(table(cells, found), constants(law), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
