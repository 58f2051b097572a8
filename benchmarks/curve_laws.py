"""Laws of learning curves, fitted to the part that a pilot has and read at the end of the run.

- power: L = E + A·s^−β, the law of loss by data of arXiv 2402.17193, for each method by itself;
- rectified: L = E + B/(D + s^β), of arXiv 2402.02314, with B so that L is the base's loss at step 0;
- exponential: L = E + A·exp(−s/τ);
- mean: of the three, weighted by how well each fits, as families of curves are by a prior over curves (Domhan et al.
  2015). The trained networks that do this (LC-PFN, ifBO) come with weights from a hub and are not tried.

Exponents lie on a grid; E and A are least squares, with E from 0 to the base's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lowregret.analysis.forecast.pilots import Curve, Pilots

Array = NDArray[np.float64]
_EXPONENTS = np.geomspace(0.05, 3.0, 40)
_FLOORS = np.linspace(0.0, 1.0, 101)
"""Of E, as a share of the base's loss."""
_LEAST_RESIDUAL = 1e-6


def _power(steps: Array, shape: float) -> Array:
    return steps**-shape


def _exponential(steps: Array, shape: float) -> Array:
    return np.exp(-steps * shape)


def _fitted(curve: Curve, base: float, end: int, form: Callable[[Array, float], Array], shapes: Array) -> Fit:
    """(loss at `end`, mean square of the residuals) of L = E + A·form(s)."""
    steps, losses = _points(curve)
    best = (losses[-1], math.inf)
    for shape in shapes:
        known = form(steps, shape)
        for floor in base * _FLOORS:
            factor = max(float(known @ (losses - floor) / (known @ known)), 0.0)
            residual = float(np.mean((floor + factor * known - losses) ** 2))
            if residual < best[1]:
                best = (floor + factor * float(form(np.array([float(end)]), shape)[0]), residual)
    return best


def power(curve: Curve, base: float, end: int) -> Fit:
    return _fitted(curve, base, end, _power, _EXPONENTS)


def exponential(curve: Curve, base: float, end: int) -> Fit:
    return _fitted(curve, base, end, _exponential, np.geomspace(0.2, 200.0, 40) / end)


def rectified(curve: Curve, base: float, end: int) -> Fit:
    steps, losses = _points(curve)
    best = (losses[-1], math.inf)
    for exponent in _EXPONENTS:
        for half in np.geomspace(1.0, 4.0 * end, 40):  # the step at which half of what can be learned is
            left = 1 / (1 + (steps / half) ** exponent)
            gone = 1 - left
            floor = min(max(float(gone @ (losses - base * left) / (gone @ gone)), 0.0), base)
            residual = float(np.mean((base * left + floor * gone - losses) ** 2))
            if residual < best[1]:
                at_end = 1 / (1 + (end / half) ** exponent)
                best = (base * at_end + floor * (1 - at_end), residual)
    return best


def mean(curve: Curve, base: float, end: int) -> Fit:
    fits = [law(curve, base, end) for law in (power, rectified, exponential)]
    weights = [max(residual, _LEAST_RESIDUAL) ** (-len(curve) / 2) for _, residual in fits]
    weights = [weight / max(weights) for weight in weights]
    return sum(w * loss for w, (loss, _) in zip(weights, fits, strict=True)) / sum(weights), 0.0


Fit = tuple[float, float]
LAWS: Mapping[str, Callable[[Curve, float, int], Fit]] = {
    "power": power,
    "rectified": rectified,
    "exponential": exponential,
    "mean": mean,
}


def regret_by(law: str, pilots: Pilots) -> float:
    """At the end of the run, as a share of what FullFT has learned by then."""
    curves = (tuple(sorted(curve.items())) for curve in (pilots.full, pilots.lora))
    full, lora = (_at_end(law, curve, pilots.base_nll, pilots.steps) for curve in curves)
    return (lora - full) / max(pilots.base_nll - full, 1e-3)


@cache
def _at_end(law: str, curve: tuple[tuple[int, float], ...], base: float, end: int) -> float:
    return LAWS[law](dict(curve), base, end)[0]


def _points(curve: Curve) -> tuple[Array, Array]:
    steps = np.array(sorted(step for step in curve if step > 0), dtype=np.float64)
    return steps, np.array([curve[int(step)] for step in steps])
