"""A stranger's first ten minutes: what the README's commands say, when, and how long they are silent.

    python -m benchmarks.first_minutes --source now=src --source before=OLDER/src --out docs/results/first_minutes.json

FOLDER of a SOURCE holds a version's sources; its recipes lie beside it. Every command is run in a pipe, in a folder of
its own for each version, with nothing else running. A silence is the time between two lines, start and end included.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from lowregret.strict_json import to_json

COMMANDS = (
    "--help",
    "doctor",
    "plan llama-3.1-8b builtin:instructions:size=20000 --hardware H100",
    "compare --modle tiny",
    "compare --model tiny --data builtin:biographies:size=32 --methods lora:16,full --steps 60 --out runs/mine",
    "train --model tiny --data builtin:arithmetic --method lora:16 --learning-rate 2e-3 --out runs/one",
    "eval --model tiny --adapter runs/one/adapter --data builtin:arithmetic --json",
    "report runs/mine",
    "compare --config {recipes}/demo.toml --out runs/demo",
)
"""In a stranger's order; a mistyped one among them."""


_START = "import sys; from lowregret.cli.main import main; sys.argv[0] = 'lowregret'; sys.exit(main())"


@dataclass(frozen=True)
class Tried:
    """One command, in one version."""

    version: str
    command: str
    code: int
    seconds: float
    first: float
    """Seconds until the first line; those of the whole command when it says nothing."""
    silence: float
    """The longest, in seconds."""
    price: bool
    """Whether a line says what it will take before the first trial begins."""


def tried(version: str, command: str, source: Path, folder: Path) -> Tried:
    """Run it."""
    words = shlex.split(command.format(recipes=source.parent / "recipes"))
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _START, *words], cwd=folder, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    told: list[float] = []
    lines: list[str] = []
    for line in process.stdout:
        told.append(time.perf_counter() - began)
        lines.append(line)
    code = process.wait()
    whole = time.perf_counter() - began
    moments = [0.0, *told, whole]
    start = next((place for place, line in enumerate(lines) if line.startswith("trial 1 ")), len(lines))
    return Tried(
        version=version,
        command=command,
        code=code,
        seconds=whole,
        first=told[0] if told else whole,
        silence=max(after - before for before, after in pairwise(moments)),
        price=any(line.startswith("price:") for line in lines[:start]),
    )


def table(found: list[Tried]) -> str:
    """As Markdown: a row a command, `total (first line; longest silence)` for each version."""
    versions = list(dict.fromkeys(each.version for each in found))
    lines = [f"| command | {' | '.join(versions)} |", f"|{'---|' * (len(versions) + 1)}"]
    for command in COMMANDS:
        own = {each.version: each for each in found if each.command == command}
        cells = [
            f"{own[name].seconds:.1f} s ({own[name].first:.1f}; {own[name].silence:.1f})"
            + ("" if own[name].code in (0, 2) else f", exit {own[name].code}")
            + (", price said" if own[name].price else "")
            for name in versions
        ]
        lines.append(f"| `{command}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all commands of all versions, in turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_minutes", description=__doc__.splitlines()[0])
    parser.add_argument("--source", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    sources = {name: Path(folder).resolve() for name, _, folder in (each.partition("=") for each in asked.source)}
    found: list[Tried] = []
    with tempfile.TemporaryDirectory() as place:
        for name in sources:
            (Path(place) / name).mkdir()
        for command in COMMANDS:
            for name, source in sources.items():
                found.append(tried(name, command, source, Path(place) / name))
                print(found[-1], flush=True)
    asked.out.write_text(to_json([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
