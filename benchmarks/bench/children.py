"""The runner's side: contenders as processes that take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.worker import PACKAGE

from lowregret.strict_json import to_json

ROOT = Path(__file__).resolve().parents[2]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_TRACKERS = ("WANDB", "MLFLOW", "TRACKIO")


class ChildFailed(Exception):
    """A contender ended before it was told to."""


@dataclass(frozen=True)
class Contender:
    """One column of a comparison: a child, and what it is asked at each repeat."""

    label: str
    child: Child
    request: Mapping[str, Any]


class Child:
    """One process that loads once and then answers requests. Its log keeps what it prints."""

    def __init__(self, function: str, settings: Mapping[str, Any], threads: int, log: Path) -> None:
        self._function, self._log = function, log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE}.worker", function, to_json(settings)],
                cwd=ROOT,
                env=child_environment(threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self.facts = self._read()
        except BaseException:
            self.end()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let it do one repeat; its measurements."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_json(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._read()

    def end(self) -> None:
        """Close its line and wait for it; one in the middle of a repeat is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        found: dict[str, Any] = json.loads(line)
        return found

    def _failure(self) -> ChildFailed:
        code = self._process.wait()
        tail = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        return ChildFailed(f"a contender ended with {code} ({self._function}):\n{tail}")


def child_environment(threads: int) -> dict[str, str]:
    """Offline, with so many threads, and without trackers that would slow a peer down."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_TRACKERS)}
    fixed = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **fixed, **dict.fromkeys(_THREADS, str(threads))}


@dataclass(frozen=True)
class Launcher:
    """Starts children with one number of threads, logs in one folder."""

    threads: int
    folder: Path

    @contextmanager
    def child(self, function: str, **settings: Any) -> Iterator[Child]:
        """A contender's process, for as long as the block."""
        count = len(list(self.folder.glob("*.log")))
        child = Child(function, settings, self.threads, self.folder / f"{count:03}-{function.replace(':', '-')}.log")
        try:
            yield child
        finally:
            child.end()

    @contextmanager
    def children(self, wanted: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Iterator[list[Contender]]:
        """{label: (function, settings)} → contenders with a child each, loaded one after the other."""
        with ExitStack() as stack:
            yield [
                Contender(label, stack.enter_context(self.child(function, **settings)), {})
                for label, (function, settings) in wanted.items()
            ]


def take_turns(contenders: Sequence[Contender], warmup: int, repeats: int) -> dict[str, Any]:
    """Every contender once a round, one at a time, each round beginning with the next of them.

    Returns {label: {"loaded_bytes", "warmup", "answers": [measurement of each round, warm-up included]}}.
    """
    found: dict[str, Any] = {
        c.label: {"loaded_bytes": c.child.facts["loaded_bytes"], "warmup": warmup, "answers": []} for c in contenders
    }
    for number in range(warmup + repeats):
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            answer = contender.child.ask(**contender.request)
            found[contender.label]["answers"].append(answer)
            if "seconds" in answer:
                print(f"    {number}: {contender.label}: {answer['seconds']:.2f} s", file=sys.stderr, flush=True)
    return found
