"""Passes of a base in parts that the ranks do not take alike: one has fewer rows, or is done with them earlier.

Each pass gathers the weights from every rank, so that none may stay away. Before a pass a rank says that it takes one;
who has none left takes an idle one as long as anybody says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowregret.engine.parallel.mesh import Ranks


@dataclass(frozen=True)
class Lockstep:
    """What every rank goes through together."""

    ranks: Ranks
    """Those that hold the parts; where the base is whole, a process alone, for whom nothing happens."""

    def announce(self) -> None:
        """Before each pass."""
        self.ranks.any(True)

    def finish(self, idle: Callable[[], None]) -> None:
        """After the last pass: until nobody takes one. `idle` is a pass of the base that gathers what any other does,
        in the same order, and lets go of as much."""
        while self.ranks.any(False):
            idle()
