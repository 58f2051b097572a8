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

from lowregret.analysis.fits import Estimate
from lowregret.analysis.learning_rate import SEARCH_SEED, middle, plateau
from lowregret.analysis.place import mean_factor, middle_place
from lowregret.questions.rl.claims import GoodRange, range_end
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


def ranges(by_seed: dict[int, dict[float, float]]) -> dict[int, GoodRange]:
    """Seed → its range about the best rate of the search's seed."""
    best = middle(plateau({rate: -gain for rate, gain in by_seed[SEARCH_SEED].items()}))
    found = {}
    for seed, own in sorted(by_seed.items()):
        if best in own:
            (low, ended), (high, stopped) = (range_end(own, best, RLQuestion().good * own[best], s) for s in (-1, 1))
            found[seed] = GoodRange(low, high, ended and stopped)
    return found


def ratio(found: dict[str, dict[int, GoodRange]]) -> Estimate | None:
    """How many times as wide LoRA's is, geometric mean over ranks."""
    loras = [own for name, own in found.items() if name != "full"]
    seeds = set(found["full"]).intersection(*loras)
    return mean_factor([middle_place([own[s].width for own in loras]) - found["full"][s].width for s in sorted(seeds)])


def table(trials: Path) -> Iterator[str]:
    found = {name: ranges(by_seed) for name, by_seed in sorted(gains(trials).items())}
    yield "| method | seed | from | to | times as wide | ends open by, doublings | bad rates on both sides |"
    yield "|---|---|---|---|---|---|---|"
    for name, by_seed in found.items():
        for seed, own in by_seed.items():
            low, high = (2.0**end.at for end in (own.low, own.high))
            give = f"{own.low.give:g}, {own.high.give:g}"
            closed = "yes" if own.closed else "no"
            yield f"| {name} | {seed} | {low:.2g} | {high:.2g} | {2.0**own.width.at:.3g} | {give} | {closed} |"
    together = ratio(found)
    assert together is not None
    interval = "" if together.low is None or together.high is None else f" ({together.low:.2g} to {together.high:.3g})"
    yield ""
    yield f"LoRA's over FullFT's: {together.value:.2g}{interval}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.reward_ranges TRIALS.csv")
    print("\n".join(table(Path(sys.argv[1]))))
