"""The plan beside what happens: peak memory and time of real runs on this CPU.

    python benchmarks/plan_check.py --model FOLDER [--out docs/results/plan_check.json]

Each run is `lowregret train` in a process of its own, on random tokens of one length; the memory is its record's peak,
evaluation included, and the time the median of its steps but the first two, which warm up, and the last, which has the
evaluation. Nothing else may run beside it where times are to count.
Started again it goes on where it stopped. `python benchmarks/plan_check.py --table FILE` prints the page again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from lowregret.strict_json import to_json

METHODS = ("lora:1:linear", "lora:16:linear", "lora:256:linear", "full")
SIZES = {"tiny": ((4, 64), (16, 64), (4, 256), (16, 256)), "real": ((2, 128), (8, 128), (2, 384), (8, 384))}
"""(rows, tokens of a row) of a step."""
STEPS = {"tiny": 13, "real": 5}
EVAL_ROWS = 16


def cases(real: bool) -> list[tuple[str, str, int, int]]:
    """(base, method, rows, length) of every run."""
    names = ["tiny", "real"] if real else ["tiny"]
    return [(name, method, rows, length) for name in names for method in METHODS for rows, length in SIZES[name]]


def write_rows(file: Path, count: int, length: int, seed: int) -> None:
    """Rows of more than `length` tokens each, which --max-length cuts to equal length."""
    draw = random.Random(seed)
    rows = [{"text": " ".join(f"w{draw.randrange(10**6)}" for _ in range(length))} for _ in range(count)]
    file.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")


def run(model: str, method: str, rows: int, length: int, steps: int) -> dict[str, Any]:
    """One training; its peak in bytes, and seconds of each step."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_rows(folder / "train.jsonl", rows * steps, length, seed=0)
        write_rows(folder / "eval.jsonl", EVAL_ROWS, length, seed=1)
        command = [str(Path(sys.executable).with_name("lowregret")), "train", "--model", model, "--method", method]
        command += ["--data", str(folder / "train.jsonl"), "--eval-data", str(folder / "eval.jsonl")]
        command += ["--max-length", str(length + 1), "--batch-size", str(rows), "--steps", str(steps), "--evals", "1"]
        command += ["--learning-rate", "1e-4", "--checkpoint-seconds", "3600", "--out", str(folder / "out"), "-q"]
        subprocess.run(command, check=True)
        record = json.loads((folder / "out" / "trial.json").read_text(encoding="utf-8"))
        lines = (folder / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        metrics = [json.loads(line) for line in lines]
        marks = [0.0, *(metric["seconds"] for metric in metrics)]
        times = [after - before for before, after in pairwise(marks)]
        tokens = metrics[-1]["tokens"]
        return {"peak": record["peak_memory_bytes"], "step_seconds": times[2:-1], "tokens": tokens, "steps": steps}


def predicted(model: str, method: str, rows: int, length: int, tokens: int) -> dict[str, Any]:
    """The plan's memory and step time."""
    from lowregret.plan.resources.cost import run_cost
    from lowregret.plan.resources.hardware import this_cpu
    from lowregret.plan.resources.memory import memory
    from lowregret.plan.shapes.lookup import find_model
    from lowregret.spec.method import FullFT, LoRA, parse_method

    fields = dict(parse_method(method))
    chosen = FullFT() if fields.pop("kind") == "full" else LoRA(**fields)
    shapes, cpu = find_model(model), this_cpu()
    need = memory(shapes, chosen, rows=rows, length=length, hardware=cpu)
    cost = run_cost(shapes, chosen, cpu, rows=rows, steps=1, length=length)
    return {"bytes": need.total, "parts": need.__dict__, "seconds": cost.step_seconds}


def table(results: dict[str, Any], real: str) -> str:
    """Markdown, with the plan's figures counted anew."""
    columns = ("base", "method", "rows × tokens", "peak, GB", "plan, GB", "off", "step, s", "plan, s", "off")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    offs: list[float] = []
    late: list[float] = []
    for key, found in results.items():
        name, method, rows, length = key.split(" ")
        plan = predicted(real if name == "real" else name, method, int(rows), int(length), found["tokens"])
        step = statistics.median(found["step_seconds"])
        offs.append(plan["bytes"] / found["peak"] - 1)
        late.append(plan["seconds"] / step - 1)
        lines.append(
            f"| {name} | {method} | {rows} × {length} | {found['peak'] / 1e9:.3f} | {plan['bytes'] / 1e9:.3f} | "
            f"{100 * offs[-1]:+.1f} % | {step:.4f} | {plan['seconds']:.4f} | {100 * late[-1]:+.0f} % |"
        )
    worst, latest = (100 * max(map(abs, found)) for found in (offs, late))
    lines += ["", f"Memory: {len(offs)} runs, worst {worst:.1f} %. Time: worst {latest:.0f} %."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="a real base's folder; without it `tiny` alone")
    parser.add_argument("--out", type=Path, default=Path("docs/results/plan_check.json"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    if not arguments.table:
        for name, method, rows, length in cases(bool(arguments.model)):
            key = f"{name} {method} {rows} {length}"
            if key in results:
                continue
            model = arguments.model if name == "real" else name
            results[key] = run(model, method, rows, length, STEPS[name])
            arguments.out.write_text(to_json(results, indent=1) + "\n", encoding="utf-8")
            print(key, results[key]["peak"] / 1e9, statistics.median(results[key]["step_seconds"]), flush=True)
    page = table(results, arguments.model)
    arguments.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
