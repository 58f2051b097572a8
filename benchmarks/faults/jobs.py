"""Small runs of every kind, each in a process forked from a warm one, with a fault and then without."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.operations import ACTIONS, Operation, Operations, pretend
from benchmarks.kill_resume import numbers

from lowregret.strict_json import to_json

_SFT = "--model tiny --data builtin:arithmetic:size=48 --max-train 16 --max-eval 4 --batch-size 2 --quiet".split()
_EVERY = "--checkpoint-seconds 0".split()
_RL = (
    "train --model tiny --objective rl --task builtin:arithmetic:size=32,test_size=4 --method lora:1 --learning-rate "
    "1e-3 --batch-size 2 --group-size 2 --max-tokens 8 --steps 2 --quiet"
).split()
JOBS: dict[str, list[str]] = {
    "train lora": ["train", *_SFT, *_EVERY, *"--method lora:2 --learning-rate 1e-3 --steps 3 --evals 2".split()],
    "train full": ["train", *_SFT, *_EVERY, *"--method full --learning-rate 1e-3 --steps 2 --evals 1".split()],
    "compare": [
        "compare",
        *_SFT,
        *_EVERY,
        *"--methods lora:1,full --learning-rates 1e-3 --seeds 1 --steps 2 --evals 1".split(),
    ],
    "rl": [*_RL, *_EVERY],
    "study": (
        "study early --steps 2 --seeds 1 --max-train 32 --max-eval 4 --batch-size 4 --ranks 1,2 --workers 1 --quiet"
    ).split(),
}
_SECONDS = 300.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: an exit code, or minus a signal's number."""

    code: int
    errors: str


@dataclass(frozen=True)
class Point:
    """A fault at one operation of a job."""

    job: str
    number: int
    """Of the operation, from 1."""
    operation: Operation
    action: str

    @property
    def key(self) -> str:
        return f"{self.job} {self.number} {self.action}"


@dataclass(frozen=True)
class Result:
    """What became of a run that met a fault, and of the same command after it."""

    point: Point
    faulted: str
    """`killed`, `clear error`, `went on`, or what it should not have been."""
    lost: str
    """What the same command did not bring back; empty when its result is the untouched run's to the bit."""


def warm() -> None:
    """Import what the jobs use, once; nothing is computed, since torch's gradients do not survive a fork."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import scipy.stats  # noqa: F401
    import torch
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    import lowregret.cli.compare
    import lowregret.cli.study
    import lowregret.cli.train
    import lowregret.report.pages.losses
    import lowregret.study.runner
    import lowregret.study.suite
    import lowregret.train.job  # noqa: F401
    from lowregret.models.load import load_base, load_tokenizer, resolve

    torch.set_num_threads(1)
    load_base(resolve("tiny"))
    load_tokenizer(resolve("tiny"))


def fork(command: Sequence[str], out: Path, before: Callable[[], None] = lambda: None) -> Ended:
    """The command in a process of its own, which does `before` first. Figures are not drawn: they take most time."""
    log = out.with_suffix(".log")
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            _draw_nothing()
            before()
            from lowregret.cli.app import run

            code = run([*command, "--out", str(out)])
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + _SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(124, f"not done after {_SECONDS:.0f} s")
        time.sleep(0.005)


def _draw_nothing() -> None:
    import lowregret.report.pages.html as one
    import lowregret.report.pages.studies as many

    one.page = many.page = lambda *_: "<p>no figures</p>"  # type: ignore[assignment]


class Bench:
    """The jobs in a folder, with what each ends with when nothing is in its way."""

    def __init__(self, folder: Path, jobs: Sequence[str] = tuple(JOBS)) -> None:
        self.folder = folder
        self.expected: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, list[Operation]] = {}
        for job in jobs:
            self._whole(job)

    def _whole(self, job: str) -> None:
        out, kept = self._out(job), self.folder / "operations.json"
        found = Operations(out)

        def count() -> None:
            pretend(found)
            leave = os._exit

            def note(code: int) -> None:
                with open(kept, "w") as file:
                    file.write(to_json([[each.kind, each.path] for each in found.seen]))
                leave(code)

            os._exit = note  # type: ignore[assignment]

        ended = fork(JOBS[job], out, count)
        if ended.code:
            raise SystemExit(f"{job} ended with {ended.code} without a fault:\n{ended.errors}")
        self.expected[job] = numbers(out)
        self.operations[job] = [Operation(*each) for each in json.loads(kept.read_text())]
        shutil.rmtree(out)

    def _out(self, job: str) -> Path:
        return self.folder / job.replace(" ", "-")

    def points(self, generator: random.Random) -> list[Point]:
        """Every fault at every operation, in an order of which each beginning is a sample of all jobs."""
        drawn: list[tuple[float, Point]] = []
        for job, operations in self.operations.items():
            own = [
                Point(job, number, operation, action)
                for number, operation in enumerate(operations, start=1)
                for action in ACTIONS[operation.kind]
            ]
            generator.shuffle(own)
            drawn += [((place + 0.5) / len(own), point) for place, point in enumerate(own)]
        return [point for _, point in sorted(drawn, key=lambda each: each[0])]

    def meet(self, point: Point) -> Result:
        """One fault, and the same command after it."""
        out, command = self._out(point.job), JOBS[point.job]
        shutil.rmtree(out, ignore_errors=True)
        first = fork(command, out, lambda: pretend(Operations(out, point.number, point.action)))
        torn = _torn(out)
        again = fork(command, out)
        return Result(point, _named(first), torn or self._lost(point.job, out, again))

    def _lost(self, job: str, out: Path, again: Ended) -> str:
        if again.code:
            return f"the same command ended with {again.code}: {again.errors.strip()[-300:]}"
        found, expected = numbers(out), self.expected[job]
        differing = sorted(
            name for name in {**found, **expected} if found.get(name, found) != expected.get(name, expected)
        )
        left = sorted(str(path.relative_to(out)) for path in out.rglob("*.partial"))
        return ", ".join([*(f"{name} differs" for name in differing), *(f"{name} is left" for name in left)])


def _torn(out: Path) -> str:
    """A record that the fault has left without its end; what grows by lines may have lost its last."""
    for path in sorted(out.rglob("*.json")):
        if ".partial" not in str(path):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                return f"{path.relative_to(out)} is torn"
    return ""


def _named(first: Ended) -> str:
    if first.code == -signal.SIGKILL:
        return "killed"
    if "Traceback (most recent call last)" in first.errors:
        return f"traceback: {first.errors.strip().splitlines()[-1][:200]}"
    return {0: "went on", 2: "clear error"}.get(first.code, f"exit code {first.code}")


GOOD = ("killed", "clear error", "went on")


def survived(result: Result) -> bool:
    """Whether the fault was met as it should be, and nothing was lost."""
    return result.faulted in GOOD and not result.lost
