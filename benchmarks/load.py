"""What a large folder costs to read: `report` and `verify` on a compare of 2,000 trials with 200 steps each.

    python -m benchmarks.load --trials 2000 --steps 200

The folder is made of numbers from a formula, in the shapes that a run writes, and its verdict is judged from them. Each
command runs in a process of its own; told are its wall time, its processor time and its peak resident memory.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lowregret.analysis.regret import judge
from lowregret.runs.atomic import write_json
from lowregret.runs.files import BASE, ENVIRONMENT, EXAMPLES, METRICS, SPEC, TRIAL, VERDICT
from lowregret.runs.records import ExampleLosses, TrialRecord
from lowregret.runs.study import read_costs, read_curves, read_examples, read_trials, start_loss, trial_folder
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, TrialSpec
from lowregret.strict_json import to_json
from lowregret.version import __version__

METHODS = (*(LoRA(rank=2**power) for power in range(9)), FullFT())
SEEDS = 5
EXAMPLES_EACH = 64
EVERY = 20
"""Steps between evaluations."""


def make(folder: Path, trials: int, steps: int) -> None:
    """A finished compare: every method at as many rates as that takes, each with five seeds."""
    count = max(3, trials // (len(METHODS) * SEEDS))
    rates = [10 ** (-5 + 4 * place / (count - 1)) for place in range(count)]
    spec = CompareSpec(
        model="tiny", data=DataSpec(train="rows.jsonl"), methods=METHODS, learning_rates=tuple(rates), seeds=SEEDS
    )
    folder.mkdir(parents=True)
    resolved = {"steps": steps, "test_examples": EXAMPLES_EACH}
    head = {"lowregret": __version__, "command": "lowregret compare", "spec": spec.model_dump(mode="json")}
    write_json(folder / SPEC, head | {"resolved": resolved})
    write_json(folder / BASE, {"test_nll": 3.0, "test_tokens": EXAMPLES_EACH})
    write_json(folder / ENVIRONMENT, {"sessions": [{"python": "3.11"}]})
    for method in METHODS:
        for place, rate in enumerate(rates):
            for seed in range(SEEDS):
                _trial(folder, TrialSpec(method=method, learning_rate=rate, seed=seed), place / (count - 1), steps)
    records = read_trials(folder)
    losses = {record.id: read_examples(trial_folder(folder, record.id) / EXAMPLES) for record in records}
    curves, costs = read_curves(folder, records), read_costs(folder)
    verdict = judge(spec, records, losses, start_loss(folder), {}, (), curves=curves, costs=costs, held_out=None)
    write_json(folder / VERDICT, verdict)


def _trial(folder: Path, trial: TrialSpec, place: float, steps: int) -> None:
    draw = random.Random(trial.id)
    best = 0.6 if isinstance(trial.method, LoRA) else 0.4
    end = 1 + (place - best) ** 2 + 0.002 * draw.gauss(0, 1)
    sums = tuple(end + 0.1 * draw.gauss(0, 1) for _ in range(EXAMPLES_EACH))
    nll = math.fsum(sums) / EXAMPLES_EACH
    home = trial_folder(folder, trial.id)
    home.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        loss = nll + (3 - nll) * math.exp(-6 * step / steps) - (3 - nll) * math.exp(-6)
        line: dict[str, Any] = {"step": step, "tokens": 100 * step, "train_nll": loss + 0.05 * draw.gauss(0, 1)}
        if step % EVERY == 0 or step == steps:
            line["test_nll"] = loss if step < steps else nll
        lines.append(line | {"lr": trial.learning_rate, "grad_norm": 1.0, "seconds": 0.01 * step})
    (home / METRICS).write_text("".join(to_json(line) + "\n" for line in lines))
    examples = ExampleLosses(nll_sums=sums, tokens=(1,) * EXAMPLES_EACH)
    (home / EXAMPLES).write_text(examples.model_dump_json())
    record = TrialRecord.of(
        trial,
        status="finished",
        test_nll=nll,
        test_tokens=EXAMPLES_EACH,
        test_examples=EXAMPLES_EACH,
        steps=steps,
        tokens=100 * steps,
        seconds=0.01 * steps,
        peak_memory_bytes=10**9,
        trainable_parameters=10**6,
        checkpoint_bytes=4 * 10**6,
    )
    (home / TRIAL).write_text(record.model_dump_json())


def measure(*arguments: str) -> dict[str, float]:
    """Wall seconds, processor seconds and peak MB of one command; SystemExit when it fails."""
    began = time.monotonic()
    program = Path(sys.executable).with_name("lowregret")
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lowregret {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    megabytes = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    seconds = used.ru_utime + used.ru_stime
    return {"wall": time.monotonic() - began, "processor": seconds, "megabytes": megabytes}


def main(arguments: list[str] | None = None) -> int:
    """Print a row a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="make it here, or use what is here (default: made and removed)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = asked.folder or Path(name) / "load"
        if not folder.exists():
            make(folder, asked.trials, asked.steps)
        print("| command | wall s | processor s | peak MB |\n|---|---|---|---|")
        for verb in ("report", "verify"):
            found = measure(verb, str(folder))
            print(f"| {verb} | {found['wall']:.1f} | {found['processor']:.1f} | {found['megabytes']:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
