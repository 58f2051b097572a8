"""Where a best learning rate lies, in doublings, and how far the rates tried leave it open. Torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lowregret.analysis.fits import Estimate, exponential, mean


@dataclass(frozen=True)
class Place:
    """log2 of a learning rate, or a sum of several with factors, such as that of a ratio or of a slope."""

    at: float
    give: float = 0.0
    """By how much it may lie lower or higher because no rate in between was tried: a bound, no standard error, so that
    of a sum the parts are added up. Seeds run at the same rates, so that it does not shrink with their number."""

    def __add__(self, other: Place) -> Place:
        return Place(self.at + other.at, self.give + other.give)

    def __sub__(self, other: Place) -> Place:
        return self + other * -1

    def __mul__(self, factor: float) -> Place:
        return Place(self.at * factor, self.give * abs(factor))


def middle_place(places: Sequence[Place]) -> Place:
    """Their mean; at least one."""
    return Place(statistics.fmean(place.at for place in places), statistics.fmean(place.give for place in places))


def place_slope(xs: Sequence[float], places: Sequence[Place]) -> Place | None:
    """Of the least-squares line; None without two places in x."""
    if len(set(xs)) < 2:
        return None
    middle = statistics.fmean(xs)
    spread = sum((x - middle) ** 2 for x in xs)
    parts = [place * ((x - middle) / spread) for x, place in zip(xs, places, strict=True)]
    return Place(sum(part.at for part in parts), sum(part.give for part in parts))


def mean_place(by_seed: Sequence[Place]) -> Estimate | None:
    """The mean over the seeds: Student's t interval, and on either side what the rates tried leave open.

    None of none, and of one seed no interval. `Estimate.level` takes the whole width for that of a t interval. At a
    bound outside of the 95 % interval that is a larger α than the true one, so that no correction for many claims
    (`questions.judge.holm`) rules where it ought not; at one inside it is a smaller one, above 0.05 all the same.
    """
    found = mean([place.at for place in by_seed])
    if found is None or found.low is None or found.high is None:
        return found
    give = middle_place(by_seed).give
    return found.model_copy(update={"low": found.low - give, "high": found.high + give})


def mean_factor(by_seed: Sequence[Place]) -> Estimate | None:
    """The same as a factor: 2 to its power."""
    return exponential(mean_place(by_seed))
