"""A trial's curve, thinned: few enough points for a page of thousands of trials. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from lowregret import limits

MOST = 96
"""Points of a curve; half of that is the least that a long one has."""
_LARGEST = 2**53
"""Up to it a browser tells whole numbers apart."""
Point = tuple[int, float]
"""A step, and the loss or the reward there."""


@final
class Thinned:
    """Points that come one after another, of which every 2^k-th is kept, so that at most `MOST` are.

    What is kept depends on the points alone, not on when they came: a curve that was read in parts is the one that was
    read at once.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._count, self._stride = 0, 1

    def takes(self) -> bool:
        """Count one more point; whether it is to be kept, at the end of `points`."""
        number = self._count
        self._count += 1
        if self._count > MOST * self._stride:
            self._stride *= 2
            self.points = self.points[::2]
        return number % self._stride == 0


@dataclass(frozen=True)
class Step:
    """What the page needs of a line of metrics.jsonl."""

    step: int
    tokens: int
    seconds: float
    trained: float | None
    """In training: nats per supervised token, or the mean reward."""
    held: float | None
    """On the held-out examples that all trials of the run share: the loss, or the reward."""
    rewarded: bool


def steps(lines: Sequence[bytes]) -> Iterator[Step]:
    """Of lines of metrics.jsonl those that can be read: zeros of a power cut and damaged ones are left out.

    Not by `Metric`, which takes ten times as long: a page opens on a hundred thousand lines.
    """
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        rows = rows if len(rows) == len(lines) else map(_parsed, lines)
    except (ValueError, RecursionError):
        rows = map(_parsed, lines)
    yield from (found for row in rows if (found := _step(row)) is not None)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _step(row: Any) -> Step | None:
    if not isinstance(row, dict):
        return None
    step, tokens, seconds = row.get("step"), row.get("tokens"), _number(row.get("seconds"))
    if type(step) is not int or type(tokens) is not int or seconds is None or not 0 <= step <= limits.STEPS:
        return None
    if not 0 <= tokens <= _LARGEST:
        return None
    samples = row.get("rl")
    reward = _number(row.get("test_reward"))
    trained = _number(row.get("train_nll")) if not isinstance(samples, dict) else _number(samples.get("reward"))
    held = _number(row.get("search_nll"))
    if held is None:
        held = _number(row.get("test_nll")) if reward is None else reward
    return Step(step, tokens, seconds, trained, held, reward is not None or isinstance(samples, dict))


def _number(value: Any) -> float | None:
    if type(value) is int:  # of hundreds of digits no number of a page can be made
        return value if abs(value) <= _LARGEST else None
    return value if type(value) is float and math.isfinite(value) else None


@final
class Curve:
    """The losses of a trial, or its rewards: in training, and on held-out data."""

    def __init__(self) -> None:
        self.train, self.held = Thinned(), Thinned()
        self.first: Step | None = None
        self.last: Step | None = None
        self.held_last: float | None = None
        """At the last evaluation."""

    def add(self, found: Step) -> tuple[list[Point], list[Point]]:
        """What is kept of a line: (of training, of held-out data)."""
        self.last = found
        if self.first is None and found.step:
            self.first = found
        if found.held is not None:
            self.held_last = found.held
        return _kept(self.train, found.step, found.trained), _kept(self.held, found.step, found.held)


def _kept(where: Thinned, step: int, value: float | None) -> list[Point]:
    if value is None or not where.takes():
        return []
    point = (step, rounded(value))
    where.points.append(point)
    return [point]


def rounded(value: float) -> float:
    """Six digits: what a screen can show."""
    return float(f"{value:.6g}")
