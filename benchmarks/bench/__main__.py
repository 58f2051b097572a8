"""Every comparison on one machine, one after the other, into one Markdown table.

    make bench BENCH_ARGS="--model FOLDER --data FOLDER"
    python -m benchmarks.bench --only sft,sampling --repeats 5 --model FOLDER --data FOLDER

Raw numbers are kept beside the table (.json), so that a stopped run goes on with the figure that it was at; figures
measured with other sources, versions or settings are measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.bench import demo, matmul, memory, moe, pack, rank, rl, sampling, sft
from benchmarks.bench.children import ROOT, ChildFailed, Launcher, take_turns
from benchmarks.bench.figures import Bench, Figure, Raw
from benchmarks.bench.results import Results
from benchmarks.bench.table import Line, page

from lowregret.environment import environment

PEERS = ("peft", "trl", "accelerate")
LEAST_REPEATS = 5


def measure_peak(bench: Bench) -> Raw:
    """The machine's float32 matmul peak."""
    with bench.launcher.children({matmul.LABEL: ("matmul:run", {})}) as contenders:
        found = take_turns(contenders, bench.warmup, bench.repeats)
    return {"peaks": matmul.peaks(found[matmul.LABEL])}


PEAK = Figure("matmul", measure_peak, lambda raw: [], lambda raw: [], needs_base=False)
ORDER = (
    *(PEAK, sft.TRIED, sft.LORA, sft.FULL, rank.RATIO),
    *(pack.PROCESSES, *pack.STREAMS, pack.BASE, sampling.SAMPLING, memory.MEMORY, moe.MOE, *rl.FIGURES, demo.DEMO),
)
FIGURES: Mapping[str, Figure] = {figure.name: figure for figure in ORDER}


def choose(only: str | None) -> list[Figure]:
    """The figures that `--only` names (`pack` stands for all that begin so); ValueError lists the valid names."""
    if only is None:
        return [figure for figure in ORDER if not figure.asked_only]
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:
        if not any(_named(figure, name) for figure in ORDER):
            raise ValueError(
                f"--only: there is no figure {name!r}. Valid: {', '.join(FIGURES)}, pack and rl (all of them)."
            )
    return [figure for figure in ORDER if figure is PEAK or any(_named(figure, name) for name in wanted)]


def _named(figure: Figure, name: str) -> bool:
    return figure.name == name or figure.name.startswith(f"{name}-")


def source_digest(folder: Path) -> str:
    """What lowregret's sources are, whatever the commit says: a stopped run goes on only with the same ones."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def write_page(path: Path, results: Results, facts: Mapping[str, Any]) -> None:
    """The table of all that has been measured, older figures included and named as such."""
    lines: list[Line] = []
    notes: list[str] = []
    shown = dict(facts)
    for figure in ORDER:
        found = results.all().get(figure.name)
        if found is None:
            continue
        raw, key = found["raw"], found["key"]
        lines += figure.lines(raw)
        notes += figure.notes(raw)
        if figure is PEAK:
            rates = ", ".join(f"{shape} {rate:.0f}" for shape, rate in raw["peaks"].items())
            shown["matmul peak, float32, GFLOP/s (medians)"] = rates
        if key["source"] != facts["source"]:
            notes.append(f"`{figure.name}` was measured with other sources: {key['source']}.")
        if key["repeats"] < LEAST_REPEATS:
            notes.append(f"`{figure.name}`: {key['repeats']} timed repeats, of {LEAST_REPEATS} at least: no result.")
    path.write_text(page(shown, lines, notes), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, and say where; 2 when something is asked for or missing that cannot be helped."""
    asked = _parse(arguments)
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"bench: {', '.join(missing)} not installed. `make setup` installs the peers.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that contenders are ended in this case too
    try:
        chosen = choose(asked.only)
        facts = _facts(asked.threads)
        results = Results(asked.out.with_suffix(".json"), fresh=asked.fresh)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            key = {**facts, "repeats": asked.repeats, "model": _name(asked.model)}
            key.pop("commit", None)
            launcher = Launcher(asked.threads, Path(folder))
            bench = Bench(launcher, asked.repeats, asked.model, asked.data, results, key, FIGURES)
            for figure in chosen:
                if figure.needs_base and not (asked.model and asked.data):
                    print(f"  {figure.name}: skipped, it needs --model and --data.", file=sys.stderr)
                    continue
                bench.need(figure.name)
                write_page(asked.out, results, {**facts, "repeats": asked.repeats})
    except (ValueError, ChildFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped. The same command goes on with the figure it was at.", file=sys.stderr)
        return 130
    print(asked.out)
    return 0


def _facts(threads: int) -> dict[str, Any]:
    peers = {name: version(name) for name in PEERS}
    return {**environment(), **peers, "threads": threads, "source": source_digest(ROOT / "src" / "lowregret")}


def _name(model: str | None) -> str | None:
    return None if model is None else Path(model).name


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="figures, by comma: " + ", ".join(FIGURES) + "; pack and rl are all of them")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help="timed repeats (default 5)")
    parser.add_argument("--model", help="folder of the real base; without it only the bundled one is measured")
    parser.add_argument("--data", help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "bench.md")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each contender (default: cores)")
    asked = parser.parse_args(arguments)
    if asked.repeats < 1 or asked.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    for name in ("model", "data"):
        folder = getattr(asked, name)
        if folder is not None:
            if not Path(folder).is_dir():
                parser.error(f"--{name} {folder}: no such folder")
            setattr(asked, name, str(Path(folder).resolve()))
    return asked


if __name__ == "__main__":
    sys.exit(main())
