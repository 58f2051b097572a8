"""What the recommended learning rates give away, and how far they are from rates measured elsewhere.

    python benchmarks/learning_rate.py SWEEP.csv --out FOLDER [--yardstick SCRIPT]

SWEEP.csv is the public table of SCIENCE 4. Prints two tables in Markdown and writes, for each way of leaving out, a
CSV (model, lora_rank, learning_rate) that the yardstick script reads; with --yardstick that script is run on each.
Takes some seconds.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lowregret.errors import LowregretError
from lowregret.plan.rates.fit import Protocol, refit, table
from lowregret.plan.rates.law import SWEEP_BATCH, SWEEP_STEPS
from lowregret.plan.rates.recommend import recommend
from lowregret.plan.rates.sweep import Cell, read_sweep
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA

_QWEN, _SMOL, _TINY = "Qwen/Qwen3-4B", "HuggingFaceTB/SmolLM2-135M-Instruct", "tiny"
_ATTENTION, _MLP = LoRA(rank=256, targets=("attention",)), LoRA(rank=256, targets=("mlp",))
ELSEWHERE: tuple[tuple[str, FullFT | LoRA, int, int, float], ...] = (
    (_QWEN, LoRA(rank=1), 32, 200, 1.2e-4),
    (_QWEN, LoRA(rank=16), 32, 200, 2.2e-4),
    (_QWEN, LoRA(rank=256), 32, 200, 2.5e-4),
    (_QWEN, _ATTENTION, 32, 200, 3.5e-4),
    (_QWEN, _MLP, 32, 200, 3.0e-4),
    (_QWEN, FullFT(), 32, 200, 2.5e-5),
    (_SMOL, LoRA(rank=16), 8, 24, 1.2e-3),
    (_SMOL, FullFT(), 8, 24, 1.0e-4),
    (_TINY, LoRA(rank=16), 8, 120, 3.6e-3),
    (_TINY, FullFT(), 8, 120, 2.0e-3),
)
"""Model, method, batch size, steps, best rate. Qwen3-4B on No Robots: SCIENCE 4; SmolLM2 on GSM8K (vertices of
parabolas): docs/findings/2026-11-24-smollm2-gsm8k.md; tiny on biographies: docs/findings/2026-11-24-demo-first.md. The
law is not fitted to them, but the terms for batch, length, targets and narrow bases, and how much wider the interval is
away from the sweep, were set with these numbers in view: that the intervals hold them is how they were made, not a test
of them."""


def recommended(cells: Sequence[Cell]) -> Protocol:
    """`recommend` itself, at the sweep's setting."""
    rates = [
        recommend(LoRA(rank=cell.rank), find_model(cell.model), batch_size=SWEEP_BATCH, steps=SWEEP_STEPS)
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


def elsewhere() -> str:
    """Measured best rates beside what is recommended for their settings. Markdown."""
    lines = [
        "| measured elsewhere | batch, steps | best rate | recommended | low to high | holds it |",
        "|---|---|---|---|---|---|",
    ]
    for model, method, batch_size, steps, best in ELSEWHERE:
        rate = recommend(method, find_model(model), batch_size=batch_size, steps=steps)
        holds = "yes" if rate.low <= best <= rate.high else "no"
        lines.append(
            f"| {model}, {method.name} | {batch_size}, {steps} | {best:.1e} | {rate.value:.1e} "
            f"| {rate.low:.1e} to {rate.high:.1e} | {holds} |"
        )
    return "\n".join(lines)


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
    print(table(cells, protocols), elsewhere(), sep="\n\n")
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
