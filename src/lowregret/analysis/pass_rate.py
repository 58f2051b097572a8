"""A rate of passes, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959964
"""The standard normal's 97.5 % point."""


def pass_interval(rates: Sequence[float], samples: int) -> tuple[float, float]:
    """A 95 % interval for the mean of problems' pass rates, each of `samples` completions.

    Wilson's score interval (J. Am. Stat. Assoc. 22, 1927), which is right near 0 and 1 too. Completions of one problem
    are alike, so its n is the number of independent ones that would vary as much: p (1 − p) over the variance of the
    mean of `rates`, from the number of problems to that of completions.
    """
    problems = len(rates)
    mean = math.fsum(rates) / problems
    n = float(problems)
    if samples > 1 and problems > 1 and 0 < mean < 1:
        variance = math.fsum((rate - mean) ** 2 for rate in rates) / (problems - 1) / problems
        most = float(problems * samples)
        n = max(n, min(most, mean * (1 - mean) / variance)) if variance else most
    centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + (Z95 / (2 * n)) ** 2)
    return max(centre - half, 0.0), min(centre + half, 1.0)
