"""A claim: its statement, what measures it, and the evidence that both are about. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from lowregret.analysis.condition import Condition, Trial
from lowregret.analysis.fits import Estimate
from lowregret.questions.question import Question
from lowregret.runs.record import Record

StatisticUnit = Literal["ratio", "share", "nats", "bits", "number"]


class Statement(Record):
    """A claim before its evidence; it depends on the question alone, and `study.json` keeps it from the start."""

    key: str
    number: str
    """Section of docs/science.md."""
    sentence: str
    """What the post, or the work cited there, says."""
    statistic: str
    """What is measured here."""
    unit: StatisticUnit
    low: float | None = None
    high: float | None = None
    """The claim holds when the whole interval of the statistic lies within these bounds, and does not hold when it lies
    wholly outside. A bound of zero is itself outside."""

    @property
    def threshold(self) -> str:
        """The bounds in words."""
        if self.low is None:
            return f"at most {_said(self.high, self.unit)}" if self.high else "below 0"
        if self.high is None:
            return f"at least {_said(self.low, self.unit)}" if self.low else "above 0"
        return f"{_said(self.low, self.unit)} to {_said(self.high, self.unit)}"


def _said(value: float | None, unit: StatisticUnit) -> str:
    if value is None:
        return "anything"
    if unit == "share":
        return f"{100 * value:g} %"
    return f"{value:g}" + {"ratio": "×", "nats": " nats", "bits": " bits"}.get(unit, "")


@dataclass(frozen=True)
class Measure:
    """What was measured of a statement's statistic."""

    estimate: Estimate | None
    """None when it could not be."""
    note: str = ""
    details: Mapping[str, float | None] = field(default_factory=dict)
    """The parts of the statistic, such as its value at each size."""


Q = TypeVar("Q", bound=Question)


@dataclass(frozen=True)
class Evidence(Generic[Q]):
    """A study's folder as claims and figures need it (`evidence.read_evidence` reads one)."""

    folder: Path
    question: Q
    command: str
    conditions: Mapping[str, Condition]
    """By name, in the order of the question."""
    timings: tuple[Mapping[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        return self.question.name

    @cached_property
    def noise(self) -> float | None:
        """The noise floor: the standard deviation over seeds of the loss at a best rate, pooled, nats."""
        squares, freedom = 0.0, 0
        for condition in self.conditions.values():
            for method in condition.methods:
                losses = [trial.loss() for trial in condition.at_best(method.name)]
                if len(losses) > 1:
                    middle = sum(losses) / len(losses)
                    squares += sum((loss - middle) ** 2 for loss in losses)
                    freedom += len(losses) - 1
        return math.sqrt(squares / freedom) if freedom else None

    @property
    def trials(self) -> list[Trial]:
        return [trial for condition in self.conditions.values() for trial in condition.trials]


@dataclass(frozen=True)
class Stated(Generic[Q]):
    """A claim as its question's folder states it: the statement beside what measures its statistic."""

    statement: Statement
    measure: Callable[[Evidence[Q]], Measure]
