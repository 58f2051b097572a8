"""Advised against found, for every study cell and public table at hand.

    python -m benchmarks.advice [--data FOLDER] [--runs FOLDER] [--json] [--write]

Without a folder: what docs/results and benchmarks/tables have. FOLDER of --data may hold the public sweeps
lora_lr_sweep_tulu3.csv and rl_lr_sweep_math_qwen3_1.7b.csv (docs/science.md 4); that of --runs holds studies of
`lowregret compare` and `lowregret study`, at any depth. Trains nothing and takes some seconds.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.advice import losses, rates, resources
from benchmarks.advice.page import page
from benchmarks.advice.row import Row, summaries
from benchmarks.advice.settings import RESULTS, committed, from_runs

from lowregret.errors import DataError, LowregretError
from lowregret.strict_json import to_json

PAGE = RESULTS / "advice.md"


def compared(data: Path | None = None, runs: Path | None = None) -> Iterator[Row]:
    """Every row. LowregretError: a folder that has none of what is read from it, or a damaged file."""
    cells = [*committed(), *(() if runs is None else from_runs(runs))]
    of_rates = list(rates.of_cells(cells))
    if data is not None:
        found = list(rates.of_folder(data))
        if not found:
            raise DataError(f"{data}: has none of {rates.SWEEP} and {rates.REWARDS}. Name a folder with one of them.")
        of_rates += found
    itself = {re.sub(r"( × \d+) × \d+,", r"\1,", row.case) for row in of_rates}  # without the size of a group
    yield from (row for row in rates.public() if row.case not in itself)  # a table of what has a sweep of its own
    yield from of_rates
    yield from losses.of_cells(cells)
    yield from resources.of_checks()
    yield from resources.of_peft()


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 2 when a folder cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.advice", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with public sweeps")
    parser.add_argument("--runs", type=Path, help="folder with studies")
    parser.add_argument("--json", action="store_true", help="every row and the summary as JSON")
    parser.add_argument(
        "--write", action="store_true", help=f"write the page to {PAGE.relative_to(RESULTS.parents[1])}"
    )
    options = parser.parse_args(arguments)
    try:
        rows = list(compared(options.data, options.runs))
    except LowregretError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        found = {"summary": [each.as_dict() for each in summaries(rows)], "rows": [row.as_dict() for row in rows]}
        print(to_json(found, indent=1))
    else:
        print(page(rows))
    if options.write:
        PAGE.write_text(page(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
