"""`--budget 4h` or `$20`: what may be spent, what has been, and what is left."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from lowregret import limits
from lowregret.errors import SpecError
from lowregret.quantities import duration

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Allowed:
    """A budget as the user gave it: one of the two."""

    seconds: float | None = None
    dollars: float | None = None


def parse_budget(text: str) -> Allowed:
    """`4h`, `30min`, `2d` or `$20`; SpecError for anything else."""
    found = re.fullmatch(r"(\$)?\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)?", text.strip())
    if found is not None and bool(found[1]) != bool(found[3]) and 0 < float(found[2]) <= limits.FACTOR:
        amount = float(found[2])
        return Allowed(dollars=amount) if found[1] else Allowed(seconds=amount * _UNITS[found[3]])
    raise SpecError(f"--budget {text!r}: give a time such as 30min, 4h or 2d, or dollars such as $20.")


class Budget:
    """Counts from when it is made."""

    def __init__(
        self, asked: Allowed, price_per_hour: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`price_per_hour` is that of all machines together; SpecError when dollars are given and it is not known."""
        if asked.dollars is not None and not price_per_hour:
            raise SpecError(
                f"--budget ${asked.dollars:g}: the price of these machines is not known. Give a time, such as 4h."
            )
        self._asked, self._price, self._clock = asked, price_per_hour, clock
        self._began = clock()
        dollars = asked.dollars or 0.0
        self._seconds = asked.seconds if asked.seconds is not None else 3600 * dollars / (price_per_hour or 1.0)

    @property
    def left(self) -> float:
        """Seconds."""
        return self._seconds - (self._clock() - self._began)

    def over(self) -> bool:
        return self.left <= 0

    def __str__(self) -> str:
        """What was spent of it, and what is left."""
        spent = min(self._clock() - self._began, self._seconds)
        if self._asked.dollars is not None and self._price:
            return f"${spent / 3600 * self._price:.2f} of ${self._asked.dollars:g} spent"
        left = "" if self.over() else f", {duration(self.left)} left"
        return f"{duration(spent)} of {duration(self._seconds)} spent{left}"
