"""What a figure is, and what all of them are measured with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench.children import Launcher
from benchmarks.bench.results import Results
from benchmarks.bench.table import Line
from benchmarks.bench.work import Row

BATCH = 8
LORA_RATE, FULL_RATE = 2e-4, 2e-5
RANKS = (1, 4, 16, 64, 256)
TRIAL_RANKS = (1, 4, 16, 64)
TRIAL_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
PROCESS_STEPS, PROCESS_BATCH = 60, 4
STREAM_BATCHES = (1, 4, 8, 16)
STREAM_STEPS = 3
"""Steps of a timed repeat on the bundled base, where one takes milliseconds."""

Raw = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One comparison: how it is measured, and what of it goes on the page."""

    name: str
    """As `--only` spells it."""
    measure: Callable[[Bench], Raw]
    lines: Callable[[Raw], list[Line]]
    notes: Callable[[Raw], list[str]]
    needs_base: bool = True
    """Whether a real base and GSM8K must be given."""
    asked_only: bool = False
    """Left out unless it is named."""


@dataclass(frozen=True)
class Bench:
    """The means of a run: processes, files that all contenders start from, and what has been measured so far."""

    launcher: Launcher
    repeats: int
    model: str | None
    data: str | None
    results: Results
    key: Mapping[str, Any]
    figures: Mapping[str, Figure]
    warmup: int = 1
    _prepared: dict[str, Path] = field(default_factory=dict)

    def need(self, name: str) -> Raw:
        """A figure's raw numbers: those of this run's file when they were made with the same things, else measured."""
        found = self.results.find(name, self.key)
        if found is None:
            print(f"  {name}", file=sys.stderr, flush=True)
            found = self.figures[name].measure(self)
            self.results.keep(name, self.key, found)
        return found

    @property
    def base(self) -> str:
        """The real base's folder."""
        assert self.model is not None
        return self.model

    def gsm8k(self) -> str:
        """The folder of what the contenders on the real base start from."""
        settings = {"model": self.model, "data": self.data, "steps": self.warmup + self.repeats, "ranks": RANKS}
        return self._prepare("gsm8k", settings)

    def stream(self) -> str:
        """The same for the bundled base."""
        turns = max(STREAM_BATCHES) * STREAM_STEPS * (self.warmup + self.repeats)
        rows = max(turns, PROCESS_STEPS * PROCESS_BATCH)
        return self._prepare("stream", {"rows": rows, "ranks": TRIAL_RANKS})

    def scratch(self) -> str:
        """A folder for what a peer insists on writing."""
        return str(self.launcher.folder / "scratch")

    def _prepare(self, what: str, settings: Mapping[str, Any]) -> str:
        if what not in self._prepared:
            folder = self.launcher.folder / what
            folder.mkdir()
            with self.launcher.child(f"prepare:{what}", folder=str(folder), **settings):
                self._prepared[what] = folder
        return str(self._prepared[what])


def batches(rows: Sequence[Mapping[str, Any]], size: int, steps: int) -> list[list[Row]]:
    """The rows of each step as the arithmetic counts them: a row is used up to its last supervised prediction."""
    found = [
        Row(max(index for index, on in enumerate(row["completion_mask"]) if on), sum(row["completion_mask"]))
        for row in rows
    ]
    return [found[step * size : (step + 1) * size] for step in range(steps)]


def loss_note(raw: Mapping[str, Any], figure: str) -> str:
    """The loss of every step of every contender that has one."""
    shown = [
        f"{label}: " + ", ".join(f"{answer['loss']:.6f}" for answer in contender["answers"])
        for label, contender in raw["contenders"].items()
        if "loss" in contender["answers"][0]
    ]
    return f"Figure {figure}, loss of each step, the warm-up's first. " + "; ".join(shown) + "."
