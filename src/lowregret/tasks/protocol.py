"""What the program that trains and the process that grades agree on: the order, and what a reward is."""

from __future__ import annotations

import decimal
import math
import numbers
from dataclasses import dataclass
from typing import Any

LARGEST_REWARD = 1e6
"""Of either sign. Advantages are differences of rewards in float32, whose 24 bits tell whole numbers apart up to 2²⁴,
about 1.7e7: with larger rewards in a group the others are lost in rounding."""
_SHOWN = 40
"""Characters of a value that is no reward."""


class NoRewardError(Exception):
    """What came back is no reward; of the process that grades only, which says it in a sample's failure."""


@dataclass(frozen=True)
class Order:
    """What a process is to grade, and how it is shut in."""

    task: str
    path: tuple[str, ...]
    """For sys.path."""
    parent: int
    """The process that it ends with."""
    walls: tuple[str, ...] | None
    """Of `walls.WALLS`; None for a function that is trusted, which nothing confines."""
    folders: tuple[str, ...]
    """In which it is tried whether a file can be made."""
    silent: bool
    """Whether what the task prints is dropped, because completions may be what prints."""
    time_limit: float
    """Seconds a sample."""


def as_reward(value: Any, name: str) -> float:
    """A number of Python, numpy or torch as a float; NoRewardError, with the function's name, for what is no reward."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()  # an array of one number
    if isinstance(value, numbers.Real | decimal.Decimal):
        try:
            reward = float(value)
        except (OverflowError, ValueError):
            reward = math.inf
        if abs(reward) <= LARGEST_REWARD:
            return reward
    try:
        shown = repr(value)[:_SHOWN]
    except Exception:  # of a class that a completion has made, or of thousands of digits
        shown = "that cannot be shown"
    kind = "" if isinstance(value, float) else f"{type(value).__name__} "
    raise NoRewardError(
        f"{name} returned {kind}{shown}: a reward is a finite number between {-LARGEST_REWARD:g} and {LARGEST_REWARD:g}"
    )
