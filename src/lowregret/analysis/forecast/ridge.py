"""Least squares with a penalty, and intervals from what it says of groups that it has not seen. Torch-free."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowregret.runs.forecast import LEVEL

PENALTY = 10.0
"""On the coefficients of standardised features, in rows: as if ten more rows said that nothing matters. By the errors
of groups left out, on comparisons for fitting alone (docs/findings/2026-11-30-forecast.md)."""


_NEAR = 0.9
"""Of the known cases so many are as near to the others as a case that is not called far."""


@dataclass(frozen=True)
class Known:
    """A case that has been measured."""

    features: tuple[float, ...]
    target: float
    group: str
    """Cases of one group may resemble each other: none of them judges how well another is predicted."""


@dataclass(frozen=True)
class Predicted:
    """What is expected, and how far off it may be."""

    value: float
    low: float
    high: float
    leverage: float
    """xᵀ(XᵀX + λ)⁻¹x: how far the case is from those that are known; a typical one of n has k / n with k features."""


class Ridge:
    """A linear model of known cases.

    Its intervals are conformal (Vovk and others, *Algorithmic Learning in a Random World*, 2005), with a group as the
    unit, because its cases resemble each other: each group is predicted by a model of the others, its worst error is
    noted, over the `scale` of its case, and the quantile of those is what a case of a new group may be off by, times
    its own scale. An interval at 90 % takes nine groups.
    """

    def __init__(self, known: Sequence[Known]) -> None:
        """`known` are of two groups or more."""
        self._fit = _Fit(known)
        unseen = left_out(known)
        leverages = sorted(leverage for _, leverage in unseen)
        self.typical = leverages[math.ceil(_NEAR * len(leverages)) - 1]
        """The leverage that nine of ten known cases stay below when their group is left out."""
        self._signed: dict[str, list[float]] = defaultdict(list)
        for case, (error, leverage) in zip(known, unseen, strict=True):
            self._signed[case.group].append(error / self.scale(leverage))
        self.errors = tuple(sorted(max(map(abs, errors)) for errors in self._signed.values()))
        """Of each group the worst, over its scale, ascending."""

    def scale(self, leverage: float) -> float:
        """What errors of cases with this leverage are counted in: √(1 + leverage), as that of a prediction by least
        squares, and beyond the typical as much more as the root of how far beyond."""
        return math.sqrt(1 + leverage) * math.sqrt(max(leverage / self.typical, 1.0))

    def place(self, level: float) -> int:
        """Which of the errors, from one on, an interval at this level takes; beyond them where they are too few."""
        return math.ceil((len(self.errors) + 1) * level)

    def predict(self, features: Sequence[float], level: float = LEVEL) -> Predicted:
        """With an interval that is to hold at this level; infinite where too few groups are known for it."""
        value, leverage = self._fit(features)
        place = self.place(level)
        reach = math.inf if place > len(self.errors) else self.errors[place - 1] * self.scale(leverage)
        return Predicted(value, value - reach, value + reach, leverage)

    def chance_below(self, features: Sequence[float], bound: float) -> float:
        """That the target lies below `bound`, by the errors that were made, each group with one weight."""
        value, leverage = self._fit(features)
        room = (bound - value) / self.scale(leverage)
        below = [sum(error < room for error in errors) / len(errors) for errors in self._signed.values()]
        return (sum(below) + 0.5) / (len(below) + 1)


def left_out(known: Sequence[Known]) -> list[tuple[float, float]]:
    """The error of each case when its group is predicted by the others, and its leverage there."""
    groups = sorted({case.group for case in known})
    if len(groups) < 2:
        raise ValueError("one group alone says nothing of how well another is predicted")
    found = {}
    for group in groups:
        fit = _Fit([case for case in known if case.group != group])
        for place, case in enumerate(known):
            if case.group == group:
                value, leverage = fit(case.features)
                found[place] = case.target - value, leverage
    return [found[place] for place in range(len(known))]


class _Fit:
    def __init__(self, known: Sequence[Known]) -> None:
        rows = np.array([case.features for case in known], dtype=np.float64)
        targets = np.array([case.target for case in known], dtype=np.float64)
        self._middle, spread = rows.mean(axis=0), rows.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        scaled = self._scaled(rows)
        penalty = np.eye(scaled.shape[1]) * PENALTY
        penalty[0, 0] = 0.0  # the mean is not drawn to nothing
        self._inverse = np.linalg.inv(scaled.T @ scaled + penalty)
        self._weights = self._inverse @ scaled.T @ targets

    def __call__(self, features: Sequence[float]) -> tuple[float, float]:
        row = self._scaled(np.array([features], dtype=np.float64))[0]
        return float(row @ self._weights), float(row @ self._inverse @ row)

    def _scaled(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.hstack([np.ones((len(rows), 1)), (rows - self._middle) / self._spread])
