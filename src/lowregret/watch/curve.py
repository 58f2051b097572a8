"""A trial's curve, thinned: few enough points for a page of thousands of trials. Pure."""

from __future__ import annotations

from typing import final

from lowregret.runs.records import Metric

MOST = 96
"""Points of a curve; half of that is the least that a long one has."""
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

    def add(self, point: Point) -> bool:
        """Whether it is kept."""
        number = self._count
        self._count += 1
        if self._count > MOST * self._stride:
            self._stride *= 2
            self.points = self.points[::2]
        if number % self._stride:
            return False
        self.points.append(point)
        return True


@final
class Curve:
    """The losses of a trial, or its rewards: in training, and on held-out data."""

    def __init__(self) -> None:
        self.train, self.held = Thinned(), Thinned()
        self.last: Metric | None = None
        self.first: Metric | None = None
        """Of the first step."""
        self.held_last: float | None = None
        """At the last evaluation, on the examples that all trials of the run share."""

    def add(self, metric: Metric) -> tuple[list[Point], list[Point]]:
        """What is kept of a line: (of training, of held-out data)."""
        self.last = metric
        if self.first is None and metric.step:
            self.first = metric
        trained = metric.train_nll if metric.rl is None else metric.rl.reward
        train = _kept(self.train, metric.step, trained)
        loss = metric.shared_loss
        if loss is None:
            return train, []
        self.held_last = loss
        return train, _kept(self.held, metric.step, loss if metric.test_reward is None else metric.test_reward)


def _kept(where: Thinned, step: int, value: float | None) -> list[Point]:
    if value is None:
        return []
    point = (step, rounded(value))
    return [point] if where.add(point) else []


def rounded(value: float) -> float:
    """Six digits: what a screen can show."""
    return float(f"{value:.6g}")
