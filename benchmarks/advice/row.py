"""One thing that was advised beside what was found, and what many of them come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

QUANTITIES: Mapping[str, str] = MappingProxyType(
    {
        "learning rate": "the best one found",
        "method": "LoRA where it loses no more than the tolerance, else full fine-tuning",
        "rank": "the least that loses no more than the tolerance, of those tried",
        "regret": "share of what full fine-tuning learns",
        "memory": "GB",
        "seconds": "a step",
    }
)
"""What is compared, and what the found figure is."""


@dataclass(frozen=True)
class Row:
    """A comparison."""

    quantity: str
    """A key of QUANTITIES."""
    source: str
    case: str
    """What ran: base, setting, method."""
    advised: float | str | None
    """None where the plan says nothing."""
    found: float | str | None
    """None where it is known only at which rate training was destroyed."""
    low: float | None = None
    high: float | None = None
    """The plan's interval."""
    destroys: float | None = None
    """The lowest rate at which training was destroyed."""
    fitted: bool = False
    """Whether a law of the plan was fitted on it, or settled with it."""

    @property
    def off(self) -> float | None:
        """Advised over found; of regrets the difference; of words, 1 where they agree and 0 where not."""
        if self.advised is None or self.found is None:
            return None
        if isinstance(self.advised, str) or isinstance(self.found, str):
            return float(self.advised == self.found)
        return self.advised - self.found if self.quantity == "regret" else self.advised / self.found

    @property
    def distance(self) -> float:
        """How far off, whichever way: of regrets the difference, else the logarithm of the factor; 0 where the plan
        says nothing."""
        if self.off is None:
            return 0.0
        if self.quantity == "regret":
            return abs(self.off)
        return abs(math.log(self.off)) if self.off > 0 else math.inf

    @property
    def held(self) -> bool | None:
        """Whether the interval holds what was found; None without one."""
        if self.low is None or self.high is None or self.found is None or isinstance(self.found, str):
            return None
        return self.low <= self.found <= self.high

    @property
    def destroyed(self) -> bool:
        """Whether the advised rate lies where training was destroyed."""
        return self.destroys is not None and isinstance(self.advised, float) and self.advised >= self.destroys

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "off": self.off, "held": self.held, "destroyed": self.destroyed}


@dataclass(frozen=True)
class Summary:
    """Of one quantity, from one source or from all."""

    quantity: str
    source: str
    rows: int
    advised: int
    """Rows for which the plan says something."""
    median: float | None
    """Factor, whichever way; of regrets the difference; of words, the share that agrees."""
    worst: float | None
    """Signed: a factor below 1 is too low."""
    held: int
    judged: int
    """Rows with an interval, and of those the ones that it holds."""
    destroyed: int

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def summary(quantity: str, source: str, rows: Sequence[Row]) -> Summary:
    """What rows of one quantity come to."""
    said = [row for row in rows if row.off is not None]
    offs = [row.off for row in said if row.off is not None]
    median = worst = None
    if said and quantity == "method":
        median = statistics.mean(offs)
    elif said:
        away = statistics.median(row.distance for row in said)
        median = away if quantity == "regret" else math.exp(away)
        worst = max(said, key=lambda row: row.distance).off
    judged = [row.held for row in rows if row.held is not None]
    return Summary(
        quantity,
        source,
        len(rows),
        len(offs),
        median,
        worst,
        sum(judged),
        len(judged),
        sum(row.destroyed for row in rows),
    )


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """For each quantity a line for each source, then one for all."""
    found = []
    for quantity in QUANTITIES:
        own = [row for row in rows if row.quantity == quantity]
        sources = dict.fromkeys(row.source for row in own)
        if len(sources) > 1:
            found += [summary(quantity, source, [row for row in own if row.source == source]) for source in sources]
        found.append(summary(quantity, "all", own))
        unseen = [row for row in own if not row.fitted]
        if len(unseen) < len(own):
            found.append(summary(quantity, "all that nothing was fitted on", unseen))
    return found
