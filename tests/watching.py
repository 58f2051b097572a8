"""Run folders for the tests of the page that watches: made up, of any number of trials, and growing."""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lowregret.addresses import listen
from lowregret.runs.files import BASE, EXAMPLES, METRICS, SPEC, TRIAL, TRIALS
from lowregret.runs.records import ExampleLosses, Metric, TrialRecord
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, TrialSpec
from lowregret.strict_json import to_json
from lowregret.watch.server import Server


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


@contextmanager
def serving(
    *folders: Path, token: str | None = None, control: bool = False, port: int = 0, host: str = "127.0.0.1"
) -> Iterator[str]:
    """The page of folders, answered from a thread; its address, without a slash at the end."""
    server = Server(folders, listen(host, port), token=token, control=control)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.url.rstrip("/")
    finally:
        server.stop()
        thread.join(10)


def get(
    url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def state_of(url: str) -> dict[str, Any]:
    """All that the page is told, once everything has been read."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found: dict[str, Any] = json.loads(get(f"{url}/state")[2])
        if found["complete"]:
            return found
        time.sleep(0.05)
    raise TimeoutError(url)
