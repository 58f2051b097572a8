"""Meet every file operation of training, comparing, studying and reinforcement learning with a fault, then go on.

    python -m benchmarks.faults --points 1000 --kills 10

At each point a small run is killed, or told that the disk is full, that it failed, or that half was written, at one of
its file operations; the same command is started again, and its records, curves, example losses and weights must be
those of a run that was not touched, to the bit; left out are wall times, memory and the environment. `--kills` are
moments at which a whole study with two workers is killed. What is done is kept in build/faults.jsonl, and a later start
goes on; docs/results/faults.json has the counts, and every point that lost something.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.faults.jobs import Bench, survived, warm
from benchmarks.kill_resume import finish, kill_at, moments, numbers

from lowregret.strict_json import to_json

HERE = Path(__file__).parents[2]
DONE = HERE / "build" / "faults.jsonl"
RESULT = HERE / "docs" / "results" / "faults.json"
STUDY = (
    "study learning-rate --steps 4 --seeds 1 --max-train 64 --max-eval 8 --batch-size 4 --ranks 4 --workers 2 --quiet"
).split()
_WORKERS = "study, 2 workers"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1000, help="faults at file operations (default 1000)")
    parser.add_argument("--kills", type=int, default=10, help="kills of a study with two workers (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="draws the points and the moments (default 0)")
    parser.add_argument("--anew", action="store_true", help="forget what is done")
    asked = parser.parse_args(arguments)
    if asked.anew:
        DONE.unlink(missing_ok=True)
    DONE.parent.mkdir(exist_ok=True)
    done = [json.loads(line) for line in DONE.read_text().splitlines()] if DONE.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        done += _points(folder, asked.points, asked.seed, {row["key"] for row in done})
        done += _kills(folder, asked.kills, asked.seed, {row["key"] for row in done})
    result = summary(done)
    RESULT.write_text(to_json(result, indent=2) + "\n")
    print(to_json({name: value for name, value in result.items() if name != "by"}, indent=2))
    return 1 if result["lost"] else 0


def _points(folder: Path, count: int, seed: int, known: set[str]) -> list[dict[str, Any]]:
    warm()
    bench = Bench(folder)
    for job, operations in bench.operations.items():
        print(f"{job}: {len(operations)} file operations", flush=True)
    found = []
    for point in bench.points(random.Random(seed))[:count]:
        if point.key in known:
            continue
        result = bench.meet(point)
        where = {"job": point.job, "operation": point.operation.kind, "path": point.operation.path}
        became = {"action": point.action, "faulted": result.faulted, "lost": result.lost, "ok": survived(result)}
        found.append(_keep({"key": point.key, **where, **became}))
    return found


def _kills(folder: Path, count: int, seed: int, known: set[str]) -> list[dict[str, Any]]:
    """A study of several groups in two processes, killed at moments spread over its life, each time from nothing."""
    keys = [f"{_WORKERS} {number}" for number in range(count)]
    if known.issuperset(keys):
        return []
    life = finish(folder / "whole", STUDY)
    expected, found = numbers(folder / "whole"), []
    for key, moment in zip(keys, moments(count, life, random.Random(seed)), strict=True):
        if key in known:
            continue
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        kill = kill_at(out, moment, STUDY)
        finish(out, STUDY)
        again = numbers(out)
        lost = ", ".join(sorted(name for name in {**again, **expected} if again.get(name) != expected.get(name)))
        became = {"action": "kill", "faulted": "killed" if kill else "went on", "lost": lost, "ok": not lost}
        found.append(_keep({"key": key, "job": _WORKERS, "operation": "any", "path": "", **became}))
    return found


def _keep(row: dict[str, Any]) -> dict[str, Any]:
    with DONE.open("a") as file:
        file.write(to_json(row) + "\n")
    if not row["ok"]:
        print(to_json(row), flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by job, operation and action, and the points that lost something."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for row in rows:
        counts[row["job"], row["operation"], row["action"], row["faulted"].partition(":")[0]] += 1
    return {
        "points": len(rows),
        "lost": sum(not row["ok"] for row in rows),
        "jobs": dict(Counter(row["job"] for row in rows)),
        "actions": dict(Counter(row["action"] for row in rows)),
        "losses": [row for row in rows if not row["ok"]],
        "by": [
            {"job": job, "operation": operation, "action": action, "faulted": faulted, "points": count}
            for (job, operation, action, faulted), count in sorted(counts.items())
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
