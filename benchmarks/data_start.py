"""How long data take to start, the first time and the next, and in how much memory, by the number of rows.

    python -m benchmarks.data_start                            # 10,000, 100,000 and 1,000,000 rows, tokens of `tiny`
    python -m benchmarks.data_start --model FOLDER --rows 100000
    python -m benchmarks.data_start --turns 1600 --rows 200    # long chats

Rows are made on the spot: a question and its answer, or a chat of so many turns. Each start is a process of its own,
and the cache a new folder, so that the first start finds nothing and the next what the first one left. Wanted: a
million short rows within 120 s and 2 GB on two cores, and seconds the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lowregret.strict_json import to_json

_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room"
).split()


@dataclass(frozen=True)
class Start:
    """One start: everything from the source to the examples, their counts and their fingerprint."""

    seconds: float
    """To the examples."""
    fingerprint_seconds: float
    """What spec.json adds: a hash of all of them."""
    processor_seconds: float
    """Of this process and its helpers, to the examples."""
    peak_bytes: int
    """Of this process, with all that it imports."""
    examples: int
    tokens: int
    fingerprint: str


def write_rows(path: Path, rows: int, turns: int) -> None:
    """A JSON Lines file of different rows: pairs of 8 words and their number, or chats."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            question = f"What is {number} and {' '.join(draw.choices(_WORDS, k=3))}?"
            row: dict[str, object] = {"prompt": question, "completion": " ".join(draw.choices(_WORDS, k=5)) + "."}
            if turns:
                words = (" ".join(draw.choices(_WORDS, k=5)) for _ in range(turns))
                messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(words)]
                row = {"messages": [{"role": "user", "content": question}, *messages[1:]]}
            file.write(to_json(row) + "\n")


def measure(source: str, model: str) -> Start:
    """In this process."""
    from lowregret.data.prepare import prepare
    from lowregret.models.load import load_tokenizer, resolve
    from lowregret.spec import DataSpec
    from lowregret.train.inputs import fingerprint

    tokenizer = load_tokenizer(resolve(model))
    began, used = time.perf_counter(), _processor_seconds()
    data = prepare(DataSpec(train=source, max_length=65_536), tokenizer)
    ready, used = time.perf_counter(), _processor_seconds() - used
    found = fingerprint(data.train)
    return Start(
        seconds=ready - began,
        fingerprint_seconds=time.perf_counter() - ready,
        processor_seconds=used,
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        examples=data.report.splits[0].read.examples,
        tokens=data.report.splits[0].read.tokens,
        fingerprint=found,
    )


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def start(source: Path, model: str, cache: Path) -> Start:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data_start", "--measure", str(source), "--model", model],
        env={**os.environ, "LOWREGRET_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Start(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=0, help="of each chat; 0 for pairs")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(to_json(asdict(measure(asked.measure, asked.model))))
        return
    print("| rows | tokens | first start | processor time | next start | its hash | peak memory, first | next |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in asked.rows:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "rows.jsonl")
            write_rows(source, rows, asked.turns)
            first, after = (start(source, asked.model, Path(folder, "cache")) for _ in range(2))
        assert (first.examples, first.fingerprint) == (after.examples, after.fingerprint)
        print(
            f"| {rows:,} | {first.tokens:,} | {first.seconds:.1f} s | {first.processor_seconds:.1f} s | "
            f"{after.seconds:.1f} s | {after.fingerprint_seconds:.1f} s | {first.peak_bytes / 1e9:.2f} GB | "
            f"{after.peak_bytes / 1e9:.2f} GB |",
            flush=True,
        )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
