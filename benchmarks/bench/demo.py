"""Figure 9: how long the demo takes, and its verdict: minutes, so measured once, and only when asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.bench.children import ROOT, ChildFailed, child_environment
from benchmarks.bench.figures import Bench, Figure, Raw
from benchmarks.bench.table import Line
from benchmarks.bench.worker import clock


def measure(bench: Bench) -> Raw:
    """`make demo`'s command in a folder of its own."""
    out = Path(bench.launcher.folder) / "demo"
    program = str(Path(sys.executable).with_name("lowregret"))
    began = clock()
    done = subprocess.run(
        [program, "compare", "--config", "recipes/demo.toml", "--out", str(out), "--quiet"],
        cwd=ROOT,
        env=child_environment(bench.launcher.threads),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise ChildFailed(f"the demo ended with {done.returncode}:\n{done.stderr[-2000:]}")
    verdict = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    return {"seconds": clock() - began, "verdict": verdict["verdict"], "regret_nats": verdict["regret_nats"]}


def lines(raw: Raw) -> list[Line]:
    verdict = f"verdict {raw['verdict']}, regret {raw['regret_nats']:.4f} nats"
    return [Line("9", "lowregret, `make demo` (once)", f"{raw['seconds']:.0f}", verdict=verdict)]


DEMO = Figure("demo", measure, lines, lambda raw: [], needs_base=False, asked_only=True)
