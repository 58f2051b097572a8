"""One reason for a learning rate: how far it moves it, how sure that is, and where it comes from. Torch-free."""

from __future__ import annotations

from typing import Literal, NamedTuple

Known = Literal["fitted", "measured", "assumed"]
"""By a fit that was judged on what was left out of it; by measurements elsewhere, few; by nothing but a rule."""


class Term(NamedTuple):
    """Terms add up; their spreads do as a root of squares."""

    shift: float
    """Added to ln rate."""
    spread: float
    """Half the interval of 90 % in ln rate that this term adds, independently of the others."""
    known: Known
    about: str
    """What it is for, as a noun."""
    source: str
    """A sentence: what it does and where that was found."""
