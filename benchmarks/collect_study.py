"""Keeps what a page of docs/findings/ needs of a study: its trials as CSV, its verdict, and two figures.

No weights, no paths.

python benchmarks/collect_study.py runs/demo docs/results/demo
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from lowregret.report.charts import compare as figures
from lowregret.report.reading import load_study
from lowregret.runs.atomic import make_folder, write_bytes, write_json

COLUMNS = (
    "id",
    "method",
    "learning_rate",
    "seed",
    "status",
    "test_nll",
    "steps",
    "tokens",
    "seconds",
    "peak_memory_bytes",
    "trainable_parameters",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    study = load_study(arguments.study)
    make_folder(arguments.out)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(trial, column) for column in COLUMNS] for trial in study.trials)
    write_bytes(arguments.out / "trials.csv", table.getvalue().encode())
    verdict = study.verdict.model_dump(mode="json")
    verdict["environment"]["model"] = Path(study.spec.model).name  # where it lay is nobody's business
    write_json(arguments.out / "verdict.json", verdict)
    figures.save(figures.loss_against_learning_rate(study), arguments.out / "loss_against_learning_rate.png")
    figures.save(figures.loss_against_steps(study), arguments.out / "loss_against_steps.png")


if __name__ == "__main__":
    main()
