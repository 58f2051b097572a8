"""Held-out loss around the best learning rate: how far below the best rate tried the bottom lies. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowregret.analysis.place import Place

MISFIT = 0.15
"""Standard error of the depth for the bowl being no parabola, as a share of it. By simulation with sides of unequal
steepness: 0.05 is enough for a factor of 1.3, none is for a factor of 2 (benchmarks/coverage.py)."""

WALL = 0.2
"""Of what the best rate has learned: a side that rises by more is no bowl any more. Rates in between were trained: the
parabola's depth is off by 0.6 % of what is learned in the mean where no side rises by more, and says 2 to 10 % too much
where one rises by 20 to 80 % (docs/findings/2026-11-30-bowls.md)."""


@dataclass(frozen=True)
class Bottom:
    """Where a bowl is lowest."""

    place: float
    """log2 of the learning rate there, over the best rate tried."""
    depth: float
    """Loss at the best rate tried minus that at the bottom; never below zero."""
    gains: tuple[float, float, float]
    """What the depth gains when the loss below, at, or above the best rate tried rises by one."""
    misfit: float
    """Standard error of the depth for the bowl being no parabola."""

    def variance(self, noise: float) -> float:
        """Of the depth, when each of the three losses has noise of its own of this variance."""
        return noise * sum(gain**2 for gain in self.gains) + self.misfit**2


@dataclass(frozen=True)
class Bowl:
    """Losses of one seed at the best rate tried and at its nearest neighbours; infinite where one left the bowl."""

    at: float
    below: float
    above: float
    to_below: float = 1.0
    """log2 of the best rate over the one below."""
    to_above: float = 1.0
    """log2 of the rate above over the best one."""

    @classmethod
    def around(
        cls, at: float, below: float, above: float, to_below: float = 1.0, to_above: float = 1.0, *, start: float | None
    ) -> Bowl:
        """From losses as they ended; `start` is the base's, None where it is not known.

        A neighbour that undoes more than `WALL` of what the best rate has learned counts as diverged: its loss says how
        it broke, and no longer how far it is from the best rate, so that the parabola would be bent too far.
        """
        most = math.inf if start is None or start <= at else at + WALL * (start - at)
        below, above = (loss if loss <= most else math.inf for loss in (below, above))
        return cls(at, below, above, to_below, to_above)

    def place(self) -> Place:
        """Of the bottom, in doublings from the best rate tried: the parabola's, where it has a say.

        Beside a side that has left the bowl it has none, and none of three equal losses; beside one that is lower (the
        best rate is the search's seed's, and this one another's) it is cut off. A bottom is then taken to be half way
        to either neighbour at most, or between the best rate and the lower neighbour: the middle of that, give or take
        the half. Neither is certain: 11 bowls with a wall had it within, as far as rates a factor of √2 apart can say
        (docs/findings/2026-12-01-walls.md), and the rate beyond a lower neighbour was not tried.
        """
        lower, higher = self.below < self.at, self.above < self.at
        flat = self.below == self.at == self.above
        if not (lower or higher or flat) and math.isfinite(self.below) and math.isfinite(self.above):
            return Place(self.bottom().place)
        start = -self.to_below if lower else 0.0 if higher else -self.to_below / 2
        end = self.to_above if higher else 0.0 if lower else self.to_above / 2
        return Place((start + end) / 2, (end - start) / 2)

    def bottom(self) -> Bottom:
        """Of the parabola through the three, in the logarithm of the rate.

        With A = (above − at) / to_above and B = (below − at) / to_below the parabola has the bend
        (A + B) / (to_above + to_below) and its bottom the place (B · to_above − A · to_below) / (2 (A + B)), which is
        kept within half the way to either neighbour. Neighbours a factor of 2 away: the place is (B − A) / (2 (A + B)),
        the depth (A − B)² / (8 (A + B)). By Lagrange's basis polynomials, each 1 at one of the three places and 0 at
        the others, any value of the parabola is their sum with the losses as factors; at the bottom, where the slope is
        zero, what they are there are the derivatives as well.

        Beside a rate that diverged there is no parabola: the depth is taken for zero, with the standard error of an
        eighth of the other side's rise, the depth of a bottom half way between the two rates. When neither side is
        known, or all three are equal, the best rate tried is all there is.
        """
        left, right = (self.below - self.at) / self.to_below, (self.above - self.at) / self.to_above
        rises = [rise for rise in (self.below - self.at, self.above - self.at) if math.isfinite(rise)]
        if len(rises) < 2 or not left + right > 0:
            return Bottom(0.0, 0.0, (0.0, 0.0, 0.0), max(rises, default=0.0) / 8 if len(rises) < 2 else 0.0)
        wide = self.to_below + self.to_above
        place = (left * self.to_above - right * self.to_below) / (2 * (left + right))
        place = min(max(place, -self.to_below / 2), self.to_above / 2)
        below = place * (place - self.to_above) / (self.to_below * wide)
        above = place * (place + self.to_below) / (self.to_above * wide)
        depth = -below * (self.below - self.at) - above * (self.above - self.at)
        return Bottom(place, depth, (-below, below + above, -above), MISFIT * depth)
