"""The ranges of good learning rates by reward, from a table of trials, by the rule of `lowregret study rl`.

    python -m benchmarks.reward_ranges docs/results/studies_full/trials.csv
    python -m benchmarks.reward_ranges docs/results/tiny_studies/trials.csv

prints, as Markdown, each seed's range of each method and how far the rates tried leave its ends open, and then how many
times as wide LoRA's is as FullFT's. A folder of the study gives the same by its claims; of these two the folders are
gone. Nothing is trained. docs/findings/2026-11-24-rl-ranks-and-rates.md has what came of it.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lowregret.analysis.condition import FULL
from lowregret.analysis.learning_rate import SEARCH_SEED, middle, plateau
from lowregret.questions.rl.claims import GoodRange, range_about, times_as_wide
from lowregret.questions.rl.spec import RLQuestion

BASE = 103 / 256
"""The pass rate of `tiny` on the held-out problems, the same in both studies: 0.402 as printed there."""


def gains(trials: Path) -> dict[str, dict[int, dict[float, float]]]:
    """Method → seed → log2 of the rate → the gain over the base, of the study's finished trials."""
    found: dict[str, dict[int, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    with trials.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["study"] == "rl" and row["test_reward"]:
                rate = math.log2(float(row["learning_rate"]))
                found[row["method"]][int(row["seed"])][rate] = float(row["test_reward"]) - BASE
    return found


def ranges(trials: Path) -> dict[str, dict[int, GoodRange]]:
    """Method → seed → its range about the best rate of the search's seed."""
    found: dict[str, dict[int, GoodRange]] = {}
    for method, by_seed in sorted(gains(trials).items()):
        best = middle(plateau({rate: -gain for rate, gain in by_seed[SEARCH_SEED].items()}))
        about = {
            seed: range_about(own, best, RLQuestion().good) for seed, own in sorted(by_seed.items()) if best in own
        }
        found[method] = {seed: own for seed, own in about.items() if own is not None}
    return found


def table(trials: Path) -> Iterator[str]:
    found = ranges(trials)
    yield "| method | seed | from | to | times as wide | ends open by, doublings | bad rates on both sides |"
    yield "|---|---|---|---|---|---|---|"
    for name, by_seed in found.items():
        for seed, own in by_seed.items():
            low, high = (2.0**end.at for end in (own.low, own.high))
            give = f"{own.low.give:g}, {own.high.give:g}"
            closed = "yes" if own.closed else "no"
            yield f"| {name} | {seed} | {low:.2g} | {high:.2g} | {2.0**own.width.at:.3g} | {give} | {closed} |"
    estimate, note = times_as_wide(found, [name for name in found if name != FULL])
    assert estimate is not None
    low, high = ("no bound" if bound is None else f"{bound:.2g}" for bound in (estimate.low, estimate.high))
    yield ""
    yield f"LoRA's over FullFT's: {estimate.value:.2g} ({low} to {high}). {note}".rstrip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.reward_ranges TRIALS.csv")
    print("\n".join(table(Path(sys.argv[1]))))
