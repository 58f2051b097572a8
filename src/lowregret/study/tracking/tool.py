"""What a tracker is to a run: a tool that opens runs, and a run that takes rows.

A run that is opened again says how far it is, so that a trial that goes on adds no point twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lowregret.runs.records import Metric, TrialRecord

PROJECT = "lowregret"
"""MLflow's experiment and the project of the others, where the user names no other."""
GOOD = ("finished", "pruned")
"""Statuses that are no failure."""


@dataclass(frozen=True)
class RunFacts:
    """What a run is called and what it was made with."""

    id: str
    """The same for as long as the trial's folder lives."""
    name: str
    study: str
    config: Mapping[str, str | int | float | bool]


class ToolRun(Protocol):
    """One trial at a tool."""

    last: int
    """The last step that it has; −1 when it has none."""

    def log(self, rows: Sequence[Metric]) -> None:
        """Rows of metrics.jsonl, each with its step."""

    def end(self, status: str, record: TrialRecord | None) -> None:
        """`status` as trial.json has it, or `stopped`: the same command goes on."""


class Tool(Protocol):
    """Where runs go."""

    def check(self) -> None:
        """Before any training: SpecError when the user has to do something first; another exception when it is away."""

    def open(self, facts: RunFacts) -> ToolRun:
        """A new run, or the one with this id."""


def values(metric: Metric) -> dict[str, float]:
    """The numbers of a row by name, `rl/reward` for one of a nested table; the step is no value."""
    found: dict[str, float] = {}
    for name, value in metric.model_dump(exclude={"step"}).items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": float(item) for key, item in value.items() if isinstance(item, int | float)}
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found
