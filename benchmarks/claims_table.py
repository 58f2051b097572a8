"""The post's claims beside each other on several bases and sets, as Markdown.

    python -m benchmarks.claims_table "tiny=runs/studies/tiny" "SmolLM2, GSM8K=runs/studies/smollm2/gsm8k"

Each argument is a column: its head, and a folder of finished studies, which are judged anew from their records by the
rules of today. A study that is not finished has no claims yet, and its cells are empty.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import Claim, judge_study
from lowregret.report.pages.claims import interval_text, value_text
from lowregret.runs.files import CLAIMS


def read_column(folder: Path) -> dict[str, Claim]:
    """Key → claim, of all finished studies at or under a folder."""
    return {
        claim.statement.key: claim
        for file in sorted(folder.rglob(CLAIMS))
        for claim in judge_study(read_evidence(file.parent)).claims
    }


def cell(claim: Claim | None) -> str:
    """`2.56× (2.15× to 3.05×): **holds**`."""
    if claim is None:
        return ""
    if claim.estimate is None:
        return "not measured"
    return f"{value_text(claim)} ({interval_text(claim)}): **{claim.ruling}**"


def table(columns: Mapping[str, Mapping[str, Claim]]) -> str:
    """A line for each claim that any column has measured, by its number in docs/science.md."""
    claims = {key: claim for column in columns.values() for key, claim in column.items()}
    claims = {key: claim for key, claim in claims.items() if any(c[key].estimate for c in columns.values() if key in c)}
    lines = [
        f"| claim of the post | bound | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for key, claim in sorted(claims.items(), key=lambda pair: _order(pair[1].statement.number)):
        stated = claim.statement
        cells = " | ".join(cell(column.get(key)) for column in columns.values())
        lines.append(f"| {stated.number} {stated.sentence} | {stated.threshold} | {cells} |")
    counts = (
        ", ".join(
            f"{sum(claim.ruling == ruling and claim.estimate is not None for claim in column.values())} {ruling}"
            for ruling in ("holds", "does not hold", "open")
        )
        for column in columns.values()
    )
    return "\n".join([*lines, f"| **together** | | {' | '.join(counts)} |"])


def _order(number: str) -> list[int]:
    return [int(part) for part in number.split(".")]


def main(arguments: Sequence[str]) -> int:
    """0, or 2 with a message."""
    columns = dict(argument.rpartition("=")[::2] for argument in arguments if "=" in argument)
    if not columns or len(columns) < len(arguments):
        print(__doc__, file=sys.stderr)
        return 2
    missing = [folder for folder in columns.values() if not Path(folder).is_dir()]
    if missing:
        print(f"error: {missing[0]}: no such folder. Name one that benchmarks.studies has left.", file=sys.stderr)
        return 2
    print(table({head: read_column(Path(folder)) for head, folder in columns.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
