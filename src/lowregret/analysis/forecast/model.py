"""The regret at the end of a run, from pilots and the bank. Torch-free.

Two linear models of the same pilots: how much FullFT will have learned by the end over what it has learned by now, and
which share of that LoRA will be behind. The second goes by the pilots' own regret, by room, that is the parameters of
the adapter and whether it is on attention alone, and by the share of the base's loss that FullFT has learned by now,
which tells data that teach from data that elicit. Bits of the data a parameter are not among them: they are known of
made-up facts alone, and for other data an upper bound that misleads. Nor are counts of steps and epochs, which a linear
model draws on to data of another kind. What was tried, and how far each was off, is in docs/findings
(`benchmarks.forecasts` measures it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowregret.analysis.forecast.pilots import FULL, LEAST_LEARNED, Pilots, Room, longest, nearest_step, pilots_at
from lowregret.analysis.forecast.ridge import Known, Ridge
from lowregret.runs.bank import BankEntry
from lowregret.runs.forecast import LEVEL, ForecastedRegret

UNIT = 0.02
"""Of what FullFT learns: shares count by their size below it, above it by their logarithm (asinh)."""
_MOST_GROWN = 20.0
"""e to this: more than FullFT can have left to learn."""
MOST_UNSURE = 0.2
"""Of what FullFT learns: a case whose own regret is known no better than that, by its 95 % interval, tells nothing of
forecasts. Of the 132 first cases ten were, by 0.21 to 2.8; the next had 0.14."""


def bent(share: float) -> float:
    """A share as the model sees it."""
    return math.asinh(share / UNIT)


def straight(value: float) -> float:
    """The inverse of `bent`."""
    return UNIT * math.sinh(max(min(value, 20.0), -20.0))


def expected(value: float) -> float:
    """The share that is expected: at most all that is learned, because a LoRA at its best rate learns something."""
    return min(straight(value), 1.0)


def regret_features(pilots: Pilots) -> tuple[float, ...]:
    """What the regret at the end goes by: the regret by now, room, and how much of its loss the base has lost."""
    return (bent(pilots.regret()), *room_features(pilots), pilots.learned() / pilots.base_nll)


def room_features(room: Room) -> tuple[float, ...]:
    """What the regret goes by where there is no pilot."""
    return math.log(room.parameters), float(room.attention_alone)


def growth_features(pilots: Pilots) -> tuple[float, ...]:
    """What FullFT's further learning goes by."""
    return (pilots.slope(), math.log(pilots.epochs), pilots.learned() / pilots.base_nll)


@dataclass(frozen=True)
class RegretModel:
    """Fitted to a bank, for pilots of one share of a run, or for none."""

    regret: Ridge
    growth: Ridge | None
    """None without pilots."""
    cases: int
    comparisons: int

    @classmethod
    def of(cls, entries: Iterable[BankEntry], share: float | None) -> RegretModel | None:
        """By pilots of a share of a run, or by none; None when the bank has no two groups of comparisons (of base and
        data) with such pilots."""
        found = [case for case in cases(entries, 1.0 if share is None else share) if case.error <= MOST_UNSURE]
        features = room_features if share is None else regret_features
        regrets = [Known(features(case.pilots), bent(case.share), case.group) for case in found]
        firsts = {case.comparison: case for case in reversed(found)}.values()
        growths = [
            Known(growth_features(case.pilots), math.log(case.learned / case.pilots.learned()), case.group)
            for case in firsts
        ]
        if len({case.group for case in found}) < 2:
            return None
        return cls(Ridge(regrets), None if share is None else Ridge(growths), len(found), len(growths))

    def forecast(self, name: str, room: Room, tolerance: float) -> ForecastedRegret:
        """Of a LoRA by its pilots, or by its room where the model is of none; `tolerance` as a share of what FullFT
        learns."""
        features = regret_features(room) if isinstance(room, Pilots) else room_features(room)
        found = self.regret.predict(features)
        low, middle, high = straight(found.low), expected(found.value), straight(found.high)
        facts: dict[str, Any] = {}
        if isinstance(room, Pilots):
            learned, (least, most) = self.learned(room), self.learned_interval(room)
            corners = [share * nats for share in (low, high) for nats in (least, most)]
            facts = {"regret_nats": middle * learned, "nats_interval": (min(corners), max(corners))}
            facts |= {"at_pilot": room.regret(), "lag": room.lag()}
        return ForecastedRegret(
            method=name,
            share=middle,
            share_interval=(low, high),
            chance_low=self.regret.chance_below(features, bent(tolerance)),
            far=found.leverage > self.regret.typical,
            **facts,
        )

    def has_bounds(self) -> bool:
        """Whether enough groups are known for an interval at a forecast's level."""
        return self.regret.place(LEVEL) <= len(self.regret.errors)

    def learned(self, pilots: Pilots) -> float:
        """Nats that FullFT is expected to have learned by the end; ValueError of a model without pilots."""
        return self._grown(pilots, self._growth().predict(growth_features(pilots)).value)

    def learned_interval(self, pilots: Pilots) -> tuple[float, float]:
        """That is to hold it at a forecast's level, no less than it has learned by now; ValueError as `learned`."""
        found = self._growth().predict(growth_features(pilots))
        return self._grown(pilots, max(found.low, 0.0)), self._grown(pilots, found.high)

    def _growth(self) -> Ridge:
        if self.growth is None:
            raise ValueError("without pilots nothing is known of what full fine-tuning learns")
        return self.growth

    @staticmethod
    def _grown(pilots: Pilots, logarithm: float) -> float:
        return min(pilots.learned() * math.exp(min(logarithm, _MOST_GROWN)), pilots.base_nll)


@dataclass(frozen=True)
class Case:
    """A LoRA of a comparison in the bank: its pilots, and what became of it."""

    comparison: str
    group: str
    """Its base and data."""
    name: str
    pilots: Pilots
    share: float
    """Measured regret over what FullFT learned."""
    learned: float
    """Nats that FullFT learned."""
    error: float
    """Half of the regret's 95 % interval, as such a share; infinite where it has none."""


def cases(entries: Iterable[BankEntry], share: float) -> Iterable[Case]:
    """The LoRAs with a measured regret whose pilots of about this share of a run are known."""
    for entry in entries:
        whole = entry.method(FULL)
        if whole is None or whole.loss is None or entry.base_nll - whole.loss < LEAST_LEARNED:
            continue
        learned = entry.base_nll - whole.loss
        for method in entry.measured():
            step = nearest_step([longest(whole), longest(method)], share, entry.steps)
            pilots = None if step is None else pilots_at(entry, method.name, step)
            if pilots is None or method.regret_nats is None:
                continue
            error = math.inf if method.ci95 is None else (method.ci95[1] - method.ci95[0]) / 2 / learned
            group = f"{entry.base[:16]} {entry.data[:16]}"
            yield Case(entry.identity, group, method.name, pilots, method.regret_nats / learned, learned, error)


def carried_over(found: Sequence[Case]) -> Mapping[str, float]:
    """Mean absolute errors in shares of the forecasts that need no model: the regret of the pilots, and the one number
    that is best for all."""
    shares = sorted(case.share for case in found)
    middle = shares[len(shares) // 2]
    return {
        "carried over": sum(abs(case.pilots.regret() - case.share) for case in found) / len(found),
        "constant": sum(abs(middle - share) for share in shares) / len(shares),
    }
