"""`python -m tests.fuzz`: spoilt inputs of every kind, each read by a command of its own.

Every one has to end with exit code 0 or 2, without a traceback, within 10 seconds and 2 GB. What did not is printed
and kept; the counts are written as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from tests.fuzz import seeds, serve
from tests.fuzz.cases import KINDS


def main() -> int:
    asked = _arguments()
    home = Path(tempfile.mkdtemp(prefix="lowregret-fuzz-"))
    os.environ |= {"LOWREGRET_CACHE": str(home / "cache"), "XDG_CACHE_HOME": str(home / "cache")}
    serve.warm()
    _make_seeds(home / "seeds")
    names = asked.kinds.split(",") if asked.kinds else list(KINDS)
    workers = []
    for worker in range(asked.workers):
        child = os.fork()
        if child == 0:
            os._exit(_work(asked, names, home, worker))
        workers.append(child)
    for child in workers:
        os.waitpid(child, 0)
    bad = _report(asked, home)
    if not asked.keep:
        shutil.rmtree(home)
    return 1 if bad else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--kinds", default="", help=f"of {','.join(KINDS)} (default: all, by their shares)")
    parser.add_argument("--workers", type=int, default=2, help="inputs at a time (default: 2)")
    parser.add_argument("--out", type=Path, help="a file of JSON for the counts")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the inputs that went wrong")
    return parser.parse_args()


def _make_seeds(home: Path) -> None:
    seeds.write_files(home)
    commands = seeds.commands(home)
    seeds.write_commands(home, commands)
    for name, arguments in commands.items():
        ended = serve.run(arguments, home / f"{name}.log", seconds=120, most=8 * 10**9, stop=name == "stopped")
        if not ended.is_fine and name != "stopped":
            sys.exit(f"the seed {name} could not be made: {ended.said}")


def _work(asked: argparse.Namespace, names: list[str], home: Path, worker: int) -> int:
    """Every `workers`-th input; a line of JSON each."""
    shares = [KINDS[name][1] for name in names]
    with open(home / f"found-{worker}.jsonl", "w") as found:
        for number in range(worker, asked.inputs, asked.workers):
            draw = random.Random(f"{asked.seed}/{number}")
            kind = draw.choices(names, shares)[0]
            here = home / f"input-{number}"
            here.mkdir()
            case = KINDS[kind][0](draw, home / "seeds", here)
            ended = serve.run(case.arguments, home / f"log-{worker}")
            line = {
                "number": number, "kind": kind, "verb": case.arguments[0], "outcome": ended.outcome,
                "spoilt": case.said,
                "seconds": round(ended.seconds, 2), "megabytes": ended.bytes // 10**6,
            }  # fmt: skip
            if not ended.is_fine:
                print(f"{ended.outcome}: {kind} {case.arguments[0]} {case.said} | {_frame(ended.said)}", flush=True)
            if ended.is_fine or not asked.keep:
                shutil.rmtree(here, ignore_errors=True)
            found.write(json.dumps(line) + "\n")
            found.flush()
    return 0


def _frame(said: str) -> str:
    """Where it went wrong, of a traceback, and its last line."""
    lines = said.strip().splitlines()
    frames = [line.strip() for line in lines if 'File "' in line]
    return f"{(lines or [''])[-1][:140]} | {frames[-1][-90:] if frames else ''}"


def _report(asked: argparse.Namespace, home: Path) -> int:
    lines = [json.loads(line) for file in sorted(home.glob("found-*.jsonl")) for line in file.read_text().splitlines()]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        counts[line["kind"]][line["outcome"]] += 1
    wrong = [line for line in lines if line["outcome"] not in ("accepted", "refused")]
    bad = len(wrong)
    summary = {
        "inputs": len(lines),
        "seed": asked.seed,
        "limits": {"seconds": serve.SECONDS, "bytes": serve.BYTES},
        "outcomes": dict(sorted(Counter(line["outcome"] for line in lines).items())),
        "by_kind": {kind: dict(sorted(found.items())) for kind, found in sorted(counts.items())},
        "longest_seconds": max((line["seconds"] for line in lines), default=0),
        "most_megabytes": max((line["megabytes"] for line in lines), default=0),
        "went_wrong": [
            line
            for line in sorted(lines, key=lambda line: line["number"])
            if line["outcome"] not in ("accepted", "refused")
        ],
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    print(text if asked.out is None else f"{len(lines)} inputs, {bad} went wrong: {asked.out}")
    if asked.out is not None:
        asked.out.write_text(text + "\n")
    return bad


if __name__ == "__main__":
    sys.exit(main())
