"""The regret that the plan expects beside what was measured, and how its constants were fitted.

    python -m benchmarks.capacity
    python -m benchmarks.capacity docs/results/tiny_studies/trials.csv

reads the trials of the full studies (docs/results/studies_full/trials.csv) and prints, as Markdown, the fit with a size
left out at a time, the 24 cells of `study rank`, the lag of short runs, and what attention alone loses. Of later trials
of the same studies, on which nothing was fitted, it prints the fit and the cells. Nothing is trained.
docs/findings/2026-11-29-capacity-advice.md has what came of it.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from lowregret.data.builtin.people import BITS_PER_PERSON
from lowregret.data.facts import DataFacts
from lowregret.data.scan import scan
from lowregret.models.files import folder_of
from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import LoRA, build
from lowregret.spec.method import Targets
from lowregret.spec.plan import PlanSpec

TRIALS = Path(__file__).parents[1] / "docs" / "results" / "studies_full" / "trials.csv"
BASE_NLL = {32: 1.747742, 128: 1.817031, 256: 1.681073, 512: 1.748533}
"""By people: `tiny` on the held-out rows, in nats per supervised token, by
`lowregret eval --model tiny --data builtin:biographies:size=N,wordings=6,test_size=128 --max-length 128`."""
SIZES = (32, 128, 512)
"""People of `study rank`."""
STEPS, ROWS = 800, 8
"""Of a trial of `study rank`, and of its step."""
NOTABLE = 0.01
"""Of what FullFT learns: a loss that a plan ought to tell of."""
_ROWS_A_PERSON = 30
_SEEDS = 3
_NOISE = (0.008, 0.15)
"""A share is taken to be known to this much, and this part of itself."""
SHORT = (
    ("rank", "size-512", "lora:128", 512, 8),
    *(("batch-size", f"batch-{rows}", "lora:64", 256, rows) for rows in (4, 8, 16, 32, 64, 128, 256)),
    ("learning-rate", "main", "lora:64", 128, 8),
    ("short-runs", "main", "lora:16", 512, 8),
)
"""Runs of about an epoch or less, with room to spare: (study, condition, method, people, rows of a step)."""


@dataclass(frozen=True)
class Elsewhere:
    """A setting on a real base of which somebody measured something."""

    model: str
    what: str
    examples: int
    supervised_tokens: int
    rows: int
    """Of a step; one epoch."""
    methods: tuple[str, ...]


ELSEWHERE = (
    # 250 tokens a row at most, as the rows were cut.
    Elsewhere("Qwen3-4B", "No Robots", 6_400, 1_600_000, 32, ("lora:1", "lora:16", "lora:256", "lora:256:attention")),
    # 780 steps; 280 supervised tokens a row are assumed.
    Elsewhere("Llama-3.1-8B-Instruct", "Tulu 3", 99_840, 28_000_000, 128, ("lora:4", "lora:16", "lora:64", "lora:128")),
    Elsewhere("Llama-3.2-1B", "Tulu 3", 99_840, 28_000_000, 128, ("lora:4", "lora:16", "lora:64", "lora:128")),
    # 7,926 tokens of 64 held-out rows.
    Elsewhere("SmolLM2-135M", "GSM8K", 192, 23_800, 8, ("lora:4", "lora:16", "lora:16:attention")),
)


@dataclass(frozen=True)
class Cell:
    """A LoRA of `study rank`, and what it lost."""

    people: int
    rank: int
    bits_per_parameter: float
    """Of the facts."""
    share: float
    """Regret over what FullFT learns, each at its best rate, the mean of three seeds."""


def best_losses(study: str, trials: Path = TRIALS) -> dict[tuple[str, str], tuple[float, int, int]]:
    """(condition, method) → held-out loss at the best rate, steps, trainable parameters; of rates with three seeds."""
    losses: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    sizes = {}
    with trials.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["study"] == study and row["status"] == "finished":
                key = row["condition"], row["method"]
                losses[key][row["learning_rate"]].append(float(row["test_nll"]))
                sizes[key] = int(row["steps"]), int(row["trainable_parameters"])
    best = {}
    for key, rates in losses.items():
        means = [statistics.fmean(seeds) for seeds in rates.values() if len(seeds) == _SEEDS]
        if means:
            best[key] = (min(means), *sizes[key])
    return best


def share_lost(lora: float, full: float, people: int) -> float:
    """Of what FullFT learns."""
    return (lora - full) / (BASE_NLL[people] - full)


def cells(trials: Path = TRIALS) -> list[Cell]:
    """The 24 of `study rank`."""
    best = best_losses("rank", trials)
    found = []
    for (condition, method), (loss, _, parameters) in sorted(best.items()):
        if method != "full":
            people, rank = int(condition.removeprefix("size-")), int(method.removeprefix("lora:"))
            lost = share_lost(loss, best[condition, "full"][0], people)
            found.append(Cell(people, rank, BITS_PER_PERSON * people / parameters, lost))
    return sorted(found, key=lambda cell: (cell.people, cell.rank))


def fit(of: Iterable[Cell]) -> tuple[float, float]:
    """(half, steepness) of share = 1 / (1 + (half / bits a parameter)^steepness), by weighted least squares."""
    known = list(of)
    each, lost = (np.array(column) for column in zip(*((c.bits_per_parameter, c.share) for c in known), strict=True))
    noise = _NOISE[0] + _NOISE[1] * lost.clip(0)

    def off(point: np.ndarray) -> np.ndarray:
        return np.asarray((1 / (1 + (np.exp(point[0]) / each) ** point[1]) - lost) / noise)

    half, steepness = least_squares(off, [0.0, 1.3]).x
    return float(np.exp(half)), float(steepness)


def source(people: int) -> str:
    """The data of `study rank`."""
    return f"builtin:biographies:size={people},wordings=6,test_size=128"


def plans(data: str, targets: Targets = ("attention", "mlp")) -> dict[int, Plan]:
    """The plan of every rank of `study rank` on a source of rows."""
    shapes = find_model("tiny")
    facts = scan(data, tokenizer=folder_of("tiny"), max_length=128)
    requests = {
        rank: PlanSpec(method=LoRA(rank=rank, targets=targets), batch_size=ROWS, steps=STEPS)
        for rank in (1, 2, 4, 8, 16, 32, 64, 128)
    }
    return {rank: build_plan(shapes, request, facts=facts) for rank, request in requests.items()}


def elsewhere(case: Elsewhere) -> Iterator[Plan]:
    """The plan of each method of a setting."""
    tokens = case.supervised_tokens
    facts = DataFacts(case.what, "", case.examples, 2 * tokens, tokens, 512, 512, 0, 1000, "", "assumed", "")
    for method in case.methods:
        request = build(PlanSpec, {"method": method, "batch_size": case.rows, "epochs": 1.0})
        yield build_plan(find_model(case.model), request, facts=facts)


def again(trials: Path) -> Iterator[str]:
    """The fit and the cells of later trials, whose LoRAs are on all matrices."""
    found, expected = cells(trials), {people: plans(source(people), LoRA(rank=1).targets) for people in SIZES}
    half, steepness = fit(cell for cell in found if cell.people != SIZES[-1])
    yield f"half {half:.2f} bits a parameter, steepness {steepness:.2f}; by those of the fit "
    yield "{:.2f} and {:.2f}\n".format(*fit(cell for cell in cells() if cell.people != SIZES[-1]))
    yield "| people | rank | bits a parameter | lost, % | expected, % |\n|---|---|---|---|---|"
    told = {(cell.people, cell.rank): expected[cell.people][cell.rank].expected for cell in found}
    flagged = {place for place, what in told.items() if what is not None and what.value > NOTABLE}
    notable = {(cell.people, cell.rank) for cell in found if cell.share > NOTABLE}
    for cell in found:
        what = told[cell.people, cell.rank]
        assert what is not None
        ours = f"{100 * what.value:.1f} ({100 * what.low:.1f} to {100 * what.high:.1f})"
        yield f"| {cell.people} | {cell.rank} | {cell.bits_per_parameter:.3g} | {100 * cell.share:.1f} | {ours} |"
    yield f"\nabove {100 * NOTABLE:g} %: {len(notable)}, of which {len(notable & flagged)} were expected to be"
    yield f"expected above it and not: {len(flagged - notable)}"


def report() -> Iterator[str]:
    """The page's tables."""
    found = cells()
    longer = [cell for cell in found if cell.people != SIZES[-1]]
    yield "| fitted on | half, bits a parameter | steepness |\n|---|---|---|"
    for people in SIZES[:-1]:
        half, steepness = fit(cell for cell in longer if cell.people == people)
        yield f"| {people} people | {half:.2f} | {steepness:.2f} |"
    half, steepness = fit(longer)
    yield f"| both | {half:.2f} | {steepness:.2f} |"
    yield "\n| people | rank | bits a parameter | lost, % | expected, % | by the other size, % |"
    yield "|---|---|---|---|---|---|"
    expected = {people: plans(source(people)) for people in SIZES}
    for cell in found:
        told = expected[cell.people][cell.rank].expected
        assert told is not None
        half, steepness = fit(other for other in longer if other.people != cell.people)
        other = 1 / (1 + (half / cell.bits_per_parameter) ** steepness)
        left_out = f"{100 * other:.1f}" if cell in longer else ""
        ours = f"{100 * told.value:.1f} ({100 * told.low:.1f} to {100 * told.high:.1f})"
        lost = f"{100 * cell.share:.1f}"
        yield f"| {cell.people} | {cell.rank} | {cell.bits_per_parameter:.3g} | {lost} | {ours} | {left_out} |"
    yield "\n| study | condition | method | epochs | behind, % of what FullFT learns |\n|---|---|---|---|---|"
    for study, condition, method, people, rows in SHORT:
        best = best_losses(study)
        (lora, steps, _), (full, _, _) = best[condition, method], best[condition, "full"]
        epochs = steps * rows / (_ROWS_A_PERSON * people)
        lost = f"{100 * share_lost(lora, full, people):.1f}"
        yield f"| {study} | {condition} | {method} | {epochs:.2f} | {lost} |"
    yield "\n| `study layers`, rank 16 | behind, % |\n|---|---|"
    best = best_losses("layers")
    for method in ("lora:16:attention", "lora:16:mlp", "lora:16"):
        yield f"| {method} | {100 * share_lost(best['main', method][0], best['main', 'full'][0], 128):.1f} |"

    yield "\n| base | data | method | bits a parameter | expected if it teaches, % | advised |"
    yield "|---|---|---|---|---|---|"
    for case in ELSEWHERE:
        for plan in elsewhere(case):
            told = plan.expected
            assert told is not None
            yield (
                f"| {case.model} | {case.what} | {plan.asked.method.name} | {told.bits_per_parameter:.2g} | "
                f"{100 * told.value:.2g} ({100 * told.low:.2g} to {100 * told.high:.2g}) | {plan.advice.method} |"
            )


if __name__ == "__main__":
    print("\n".join(again(Path(sys.argv[1])) if len(sys.argv) > 1 else report()))
