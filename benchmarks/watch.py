"""What the page that watches takes: of thousands of made-up trials, in the system's Chromium.

    python -m benchmarks.watch [--trials 2000] [--steps 100] [--write]

Says how long the first reading takes, how large the state is, how soon the page stands, how soon a new step shows, and
what the server takes of a processor while three trials train. `--write` renews docs/results/watch.json. A minute or
two; tests/e2e/test_watch.py holds the bars. The tests make their folders with what is here.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lowregret.environment import environment
from lowregret.runs.files import BASE, EXAMPLES, METRICS, SPEC, TRIAL, TRIALS
from lowregret.runs.records import ExampleLosses, Metric, TrialRecord
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, TrialSpec
from lowregret.strict_json import to_json

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "watch.json"
METHODS = (LoRA(rank=4), LoRA(rank=16), FullFT())


def write_json(path: Path, value: Any) -> None:
    """As runs do, but for the disk's own time, which thousands of them would take minutes of."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    path.write_text(to_json(plain), encoding="utf-8")


METHODS = (LoRA(rank=4), LoRA(rank=16), FullFT())


def make_compare(folder: Path, *, steps: int = 40, methods: Sequence[Any] = METHODS, **changed: Any) -> CompareSpec:
    """A comparison that has begun, without a trial."""
    spec = CompareSpec(
        model="tiny", data=DataSpec(train="builtin:arithmetic"), methods=tuple(methods), steps=steps, **changed
    )
    (folder / TRIALS).mkdir(parents=True, exist_ok=True)
    head = {
        "lowregret": "0.3.0",
        "command": "lowregret compare --out somewhere/else",
        "spec": spec.model_dump(mode="json"),
    }
    write_json(folder / SPEC, {**head, "resolved": {"steps": steps, "device": "cpu", "test_examples": 4}})
    write_json(folder / BASE, {"test_nll": 3.0, "test_tokens": 40})
    return spec


def trial(folder: Path, method: Any, rate: float, seed: int = 0, status: Any = "running", **facts: Any) -> Path:
    """A trial's folder with its record."""
    spec = TrialSpec(method=method, learning_rate=rate, seed=seed)
    home = folder / TRIALS / spec.id
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / TRIAL, TrialRecord.of(spec, status=status, **facts))
    return home


def loss_at(step: int, rate: float, seed: int = 0) -> float:
    """A bowl over rates, falling with steps."""
    off = math.log2(rate / 2e-3)
    return 1.0 + 0.02 * off**2 + 2.0 * math.exp(-step / 8) + 0.003 * math.sin(seed + 7 * step)


def line(step: int, rate: float = 2e-3, seed: int = 0, *, held: bool | None = None, **more: Any) -> bytes:
    """A line of metrics.jsonl; every fifth has a held-out loss."""
    loss = loss_at(step, rate, seed)
    judged = step % 5 == 0 if held is None else held
    metric = Metric(
        step=step, tokens=100 * step, train_nll=loss, test_nll=loss + 0.01 if judged else None, lr=rate,
        grad_norm=1 / step, seconds=0.1 * step, **more,
    )  # fmt: skip
    return (to_json(metric.model_dump(mode="json", exclude_none=True)) + "\n").encode()


def grow(home: Path, steps: Sequence[int], rate: float = 2e-3, seed: int = 0) -> None:
    """More steps."""
    with (home / METRICS).open("ab") as file:
        file.write(b"".join(line(step, rate, seed) for step in steps))


def finish(folder: Path, method: Any, rate: float, seed: int = 0, *, steps: int = 40, lag: float = 0.0) -> Path:
    """A trial that has ended, with its curve and its examples; `lag` is added to what it ends with."""
    found = loss_at(steps, rate, seed) + 0.01 + lag
    home = trial(folder, method, rate, seed, "finished", test_nll=found, test_tokens=40, test_examples=4, steps=steps,
                 seconds=0.1 * steps, tokens=100 * steps, trainable_parameters=1000)  # fmt: skip
    grow(home, range(1, steps + 1), rate, seed)
    spread = (-0.4, 0.1, 0.5, -0.2)
    sums = tuple(10 * (found + 0.3 * off) for off in spread)
    write_json(home / EXAMPLES, ExampleLosses(nll_sums=sums, tokens=(10,) * 4))
    return home


def make_many(folder: Path, trials: int, *, steps: int = 40) -> CompareSpec:
    """A comparison of so many trials, most of which have ended."""
    spec = make_compare(folder, steps=steps, seeds=3)
    for number in range(trials):
        method, rate, seed = METHODS[number % 3], 1e-4 * 2 ** (number // 3 % 9), number // 27
        if number >= trials - 3:
            grow(trial(folder, method, rate, seed), range(1, steps // 2), rate, seed)
        else:
            finish(folder, method, rate, seed, steps=steps)
    return spec


def chromium() -> str | None:
    """The system's, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def measure(trials: int, steps: int) -> dict[str, Any]:
    """All figures, by name: seconds, bytes, and share of a processor."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "many"
        make_many(home, trials, steps=steps)
        server = subprocess.Popen(
            [sys.executable, "-m", "lowregret", "watch", folder, "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("watch: ").strip()
            return {"trials": trials, "steps": steps, **_figures(url, home, server.pid, steps)}
        finally:
            server.terminate()
            server.wait()


def _figures(url: str, home: Path, pid: int, steps: int) -> dict[str, Any]:
    began = time.monotonic()
    while not json.loads(_state(url))["complete"]:
        time.sleep(0.1)
    found: dict[str, Any] = {"first reading": time.monotonic() - began}
    began = time.monotonic()
    found["state bytes"] = len(_state(url))
    found["state"] = time.monotonic() - began
    where = chromium()
    if where is None:
        return found
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=where, args=["--no-sandbox"], timeout=120_000)
        page = browser.new_page()
        running = page.locator("#trials tbody tr", has_text="running")
        loads = []
        for _ in range(5):
            began = time.monotonic()
            page.goto(url)
            running.first.wait_for()
            loads.append(time.monotonic() - began)
        growing = sorted(path for path in (home / TRIALS).iterdir() if '"running"' in (path / TRIAL).read_text())[0]
        done = steps // 2 - 1
        shown = []
        for step in range(done + 1, min(done + 21, steps)):
            began = time.monotonic()
            grow(growing, [step])
            expect(page.locator(".step", has_text=f"{step}/")).to_be_visible()
            shown.append(time.monotonic() - began)
        before = _cpu(pid)
        page.wait_for_timeout(20_000)
        found |= {"page": loads, "new step, median": statistics.median(shown), "new step, longest": max(shown)}
        found["of a processor"] = (_cpu(pid) - before) / 20
        browser.close()
    return found


def _state(url: str) -> bytes:
    with urllib.request.urlopen(f"{url}state", timeout=60) as answer:
        found: bytes = answer.read()
        return found


def _cpu(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.trials, asked.steps)
    text = to_json({"environment": environment(), **found}, indent=2)
    print(text)
    if asked.write:
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
