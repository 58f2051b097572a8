"""What the recommended learning rates give away on the public sweep that they are fitted on.

    python benchmarks/learning_rate.py SWEEP.csv --out FOLDER [--yardstick SCRIPT]

SWEEP.csv is the public table of SCIENCE 4. Prints a table in Markdown and writes, for each way of leaving out, a
CSV (model, lora_rank, learning_rate) that the yardstick script reads; with --yardstick that script is run on each.
Takes some seconds. Rates that were measured elsewhere: `python -m benchmarks.advice`.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rate_law.fit import Protocol, refit, table
from benchmarks.rate_law.sweep import Cell, read_sweep

from lowregret.errors import LowregretError
from lowregret.plan.rates.law import SWEEP_BATCH, SWEEP_STEPS
from lowregret.plan.rates.recommend import recommend
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import LoRA


def recommended(cells: Sequence[Cell]) -> Protocol:
    """`recommend` itself, at the sweep's setting."""
    rates = [
        recommend(
            LoRA(rank=cell.rank),
            find_model(cell.model),
            batch_size=SWEEP_BATCH,
            steps=SWEEP_STEPS,
            schedule="linear",
        )
        for cell in cells
    ]
    return Protocol("recommend() as committed, in sample", [math.log(rate.value) for rate in rates])


def write(path: Path, cells: Sequence[Cell], protocol: Protocol) -> None:
    """A CSV that the yardstick reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "lora_rank", "learning_rate"])
        for cell, log_rate in zip(cells, protocol.predictions, strict=True):
            writer.writerow([cell.model, cell.rank, repr(math.exp(log_rate))])


def main() -> int:
    """0; 2 when the table cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSVs")
    parser.add_argument("--yardstick", type=Path, help="script that takes SWEEP.csv and a CSV of recommendations")
    options = parser.parse_args()
    try:
        cells = read_sweep(options.sweep)
    except LowregretError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    protocols = [recommended(cells), *refit(cells)[1]]
    print(table(cells, protocols))
    options.out.mkdir(parents=True, exist_ok=True)
    for protocol in protocols:
        name = "".join(letter if letter.isalnum() else "_" for letter in protocol.name)
        path = options.out / f"{name}.csv"
        write(path, cells, protocol)
        if options.yardstick is not None:
            command = [sys.executable, str(options.yardstick), str(options.sweep), str(path)]
            print(
                f"\n{protocol.name}:",
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(),
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
