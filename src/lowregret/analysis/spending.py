"""How much of a verdict's error each of several looks may have. Torch-free."""

from __future__ import annotations

import math

ERROR = 0.05
"""Of a verdict, as that of one look at a 95 % interval."""


def error_by(part: float) -> float:
    """What may have been spent when this part of the seeds is there, 0 to 1: 2 − 2 Φ(z / √part), Φ(z) = 1 − ERROR / 2.

    Early looks are given little, the last most of it: O'Brien and Fleming's boundary as a spending function (Lan and
    DeMets, *Discrete sequential boundaries for clinical trials*, Biometrika 70, 1983). Looks are given differences of
    it, which add up to ERROR, so that by the union bound the chance that any of their intervals misses the truth is
    no more than that, however the looks depend on each other.
    """
    from scipy.special import ndtr, ndtri  # here, since importing scipy takes a while

    if not part > 0:
        return 0.0
    return float(2 * ndtr(ndtri(ERROR / 2) / math.sqrt(min(part, 1.0))))


def look_error(seeds: int, most: int, spent: float) -> float:
    """What a look at so many seeds, of at most `most`, may have when earlier ones have spent so much; 0 when nothing
    is left."""
    return max(0.0, error_by(seeds / most) - spent)
