"""How schedule, batch, length and a small base move the best learning rate: the fit behind plan/rates/setting.py.

    python -m benchmarks.rates_elsewhere

Reads best rates that were measured outside of the public sweep (benchmarks/tables/best_rates.csv and the trials of our
own studies in docs/results), takes the law of that sweep off them, and fits what is left by least squares, every base
with one weight. Prints the fitted terms, the terms with each base left out, and how far the committed law is from every
base, seen and unseen. Takes a second.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.rate_law.sweep import fit_parabola
from numpy.typing import NDArray

from lowregret.plan.rates.law import LAW, SWEEP_BATCH, SWEEP_STEPS, group_of
from lowregret.plan.rates.method import FULL_REFERENCE_RANK, ratio, short_terms
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.rates.setting import BATCH_POWER, CONSTANT, FEWEST_STEPS, SMALL_POWER, SMALLEST, STEPS_POWER
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA, build
from lowregret.spec.method import parse_method
from lowregret.spec.optimizer import Schedule

HOME = Path(__file__).resolve().parents[1]
TABLE = HOME / "benchmarks" / "tables" / "best_rates.csv"
STUDIES = tuple(HOME / "docs" / "results" / name / "trials.csv" for name in ("studies_full", "tiny_studies"))
"""Of `tiny`: on the layers' matrices, and on all."""
SMOLLM2, _SMOLLM2 = HOME / "docs" / "results" / "smollm2_studies" / "trials.csv", "HuggingFaceTB/SmolLM2-135M-Instruct"
SCHEDULES = HOME / "docs" / "results" / "rates" / "schedules_tiny.csv"

TERMS = ("constant", "batch power", "steps power", "small power", "ratio", "narrow")
PRIOR = (math.log(0.5), 0.25, -0.15, -0.3, math.log(ratio(SWEEP_STEPS)), 1.0)
"""What theory and the post say before any of this is seen: a decaying rate has half the mean of a constant one; Adam's
batch power lies between 0 and 1/2; LoRA's rate is ten times FullFT's, in narrow bases less."""
PRIOR_SPREAD = (0.3, 0.15, 0.1, 0.3, 0.3, 0.5)
NOISE = 0.3
"""Of a measured ln rate: a grid of a factor of 2, one to three seeds."""
BASE_WEIGHT = 4.0
"""Cells that a base counts for, however many it has."""


@dataclass(frozen=True)
class Found:
    """A best rate that was measured."""

    model: str
    method: FullFT | LoRA
    schedule: Schedule
    batch_size: int
    steps: int
    rate: float

    @property
    def advised(self) -> RatePrior:
        """What the product says of the same run."""
        return recommend(
            self.method,
            find_model(self.model),
            batch_size=self.batch_size,
            steps=self.steps,
            schedule=self.schedule,
        )

    def features(self) -> list[float]:
        """What each of TERMS is multiplied by in ln rate."""
        shapes, full = find_model(self.model), isinstance(self.method, FullFT)
        narrow = max(math.log(600 / shapes.hidden_size), 0.0)
        return [
            float(self.schedule == "constant"),
            math.log(self.batch_size / SWEEP_BATCH),
            math.log(max(self.steps, FEWEST_STEPS) / SWEEP_STEPS),
            min(math.log(max(shapes.total, SMALLEST) / LAW.sizes[0]), 0.0),
            -float(full),
            narrow if full else 0.0,
        ]

    def beyond_the_sweep(self) -> float:
        """ln of the found rate over what the sweep's law and the post's ratios give."""
        shapes = find_model(self.model)
        rank = self.method.rank if isinstance(self.method, LoRA) else FULL_REFERENCE_RANK
        apart = 0.5 * math.log(ratio(self.steps) / ratio(SWEEP_STEPS))
        law = LAW.log_rate(group_of(shapes.family), shapes.total, rank)
        if isinstance(self.method, LoRA):
            law += sum(term.shift for term in short_terms(self.method, self.steps))
        return math.log(self.rate) - law - (apart if isinstance(self.method, LoRA) else -apart)


def method_of(name: str) -> FullFT | LoRA:
    return build(FullFT if name == "full" else LoRA, parse_method(name))


def elsewhere() -> Iterator[Found]:
    """Supervised best rates on all matrices; adapters in one place have a factor of their own in the law."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["objective"] == "sft" and row["best_rate"] and row["method"].count(":") < 2:
                yield Found(
                    row["model"],
                    method_of(row["method"]),
                    row["schedule"],  # type: ignore[arg-type]
                    int(row["batch_size"]),
                    int(row["steps"]),
                    float(row["best_rate"]),
                )
    yield from _studies()


def _studies() -> Iterator[Found]:
    """Bottoms of the parabolas of our own studies on `tiny` and SmolLM2 that have one."""
    losses: dict[tuple[str, str, str, int, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in [row for trials in STUDIES for row in _rows(trials)]:
        wanted = row["study"] in ("learning-rate", "short-runs", "batch-size", "rank")
        if wanted and row["status"] == "finished" and row["method"].count(":") < 2:
            batch = int(row["condition"].partition("-")[2]) if row["study"] == "batch-size" else 8
            method = row["method"] if row["targets"] in ("", "attention+mlp") else f"{row['method']}:all"
            key = ("tiny", "constant", method, batch, int(row["steps"]))
            losses[key][float(row["learning_rate"])].append(float(row["test_nll"]))
    for row in _rows(SCHEDULES):
        if row["status"] == "finished":
            key = ("tiny", row["schedule"], row["method"], int(row["batch_size"]), int(row["steps"]))
            losses[key][float(row["learning_rate"])].append(float(row["test_nll"]))
    for row in _rows(SMOLLM2):
        if row["status"] == "finished" and row["method"].endswith(("full", ":all")):
            batch = int(row["condition"].partition("-")[2] or 4)
            key = (_SMOLLM2, "constant", row["method"], batch, int(row["steps"]))
            losses[key][float(row["learning_rate"])].append(float(row["test_nll"]))
    for (model, schedule, method, batch_size, steps), cell in losses.items():
        means = {math.log(rate): statistics.mean(values) for rate, values in cell.items()}
        best = min(means, key=lambda rate: means[rate])
        parabola = fit_parabola(means)
        if parabola is not None and min(means) < best < max(means):
            rate = math.exp(parabola.optimum)
            yield Found(model, method_of(method), schedule, batch_size, steps, rate)  # type: ignore[arg-type]


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def fit(cells: Sequence[Found]) -> NDArray[np.float64]:
    """The terms: least squares about the found rates, every base with one weight, held towards PRIOR."""
    count = {model: sum(cell.model == model for cell in cells) for model in {cell.model for cell in cells}}
    weights = np.sqrt([BASE_WEIGHT / count[cell.model] for cell in cells]) / NOISE
    design = np.array([cell.features() for cell in cells]) * weights[:, None]
    target = np.array([cell.beyond_the_sweep() for cell in cells]) * weights
    spread = np.array(PRIOR_SPREAD)
    rows = np.vstack([design, np.diag(1 / spread)])
    return np.asarray(np.linalg.lstsq(rows, np.concatenate([target, PRIOR / spread]), rcond=None)[0], dtype=np.float64)


def errors(cells: Sequence[Found], terms: NDArray[np.float64]) -> list[float]:
    """ln of the predicted over the found rate of each cell."""
    return [float(np.dot(cell.features(), terms)) - cell.beyond_the_sweep() for cell in cells]


def off(logs: Sequence[float]) -> str:
    """Mean and farthest factor."""
    mean, farthest = statistics.mean(logs), max(logs, key=abs)
    return f"x{math.exp(mean):.2f}, farthest x{math.exp(farthest):.2f}"


def main() -> None:
    cells = list(elsewhere())
    bases = list(dict.fromkeys(cell.model for cell in cells))
    names = ["constant over linear", *TERMS[1:4], "LoRA over FullFT", TERMS[5]]
    print("| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names), sep="\n")
    committed = [math.log(CONSTANT), BATCH_POWER, STEPS_POWER, SMALL_POWER, math.log(ratio(SWEEP_STEPS)), 1.0]
    lines = [("before any of it is seen", PRIOR), ("fitted on all", fit(cells))]
    lines += [(f"without {base}", fit([cell for cell in cells if cell.model != base])) for base in bases]
    for name, terms in [*lines, ("committed", committed)]:
        shown = [math.exp(terms[0]), *terms[1:4], math.exp(terms[4]), terms[5]]
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in shown) + " |")
    print("\n| predicted over found | cells | fitted on all | this base left out | committed law | in its interval |")
    print("|---|---|---|---|---|---|")
    everything = fit(cells)
    for base in bases:
        own, rest = ([cell for cell in cells if (cell.model == base) == here] for here in (True, False))
        law = [math.log(cell.advised.value / cell.rate) for cell in own]
        held = sum(cell.advised.low <= cell.rate <= cell.advised.high for cell in own)
        seen, unseen = errors(own, everything), errors(own, fit(rest))
        print(f"| {base} | {len(own)} | {off(seen)} | {off(unseen)} | {off(law)} | {held} |")


if __name__ == "__main__":
    main()
