"""The best of several LoRAs looks better than it is: by how much. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_POINTS = 2001
_REACH = 6.0
"""The expectation is integrated so many standard errors on both sides of the lowest mean: the least of all lies beyond
with a probability of 1e-9 a LoRA, however far above the others are."""


def flattery(regrets: Sequence[float], variance: float) -> float:
    """What to expect of min(measured) − min(true) for several measured regrets: zero or below, nats.

    The measured regrets spread by their true differences and by noise. As far as noise explains the spread they are
    drawn together: with s² their sample variance, the true ones are taken for m + (1 − variance / s²)^½ · (regret − m),
    or all for their mean m when the noise is the larger. The expected minimum of normal numbers with these means and
    this variance, by E min = a + ∫_a^∞ Π (1 − Φ((x − mean) / σ)) dx, less the lowest mean, is what the choice flatters.
    For 2, 3 or 4 LoRAs with little spread it is −0.564, −0.846 or −1.029 σ; where one is better than the rest by much
    more than σ it is zero.

    Args:
        regrets: of each LoRA, by the same examples and seeds.
        variance: squared standard error of one of them for itself: half that of a difference of two.
    """
    if len(regrets) < 2 or not variance > 0:
        return 0.0
    from scipy.special import ndtr  # here, since importing scipy takes a while

    found = np.asarray(regrets, dtype=np.float64)
    spread = float(found.var(ddof=1))
    kept = math.sqrt(max(0.0, 1 - variance / spread)) if spread > 0 else 0.0
    means = found.mean() + kept * (found - found.mean())
    error = math.sqrt(variance)
    above = (means - means.min()) / error
    grid = np.linspace(-_REACH, _REACH, _POINTS)
    survivors = np.prod(ndtr(above - grid[:, None]), axis=1)
    return min(0.0, error * float(grid[0] + np.trapezoid(survivors, grid)))
