"""The formula of every optimizer in NumPy, for tests/laws/test_optimizer.py: what its kernels and bits must come to."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import bitsandbytes.functional as codes
import numpy as np
import torch

from lowregret.engine.optim.narrow import joined, mixed, round_by_chance, split

Weights = dict[str, np.ndarray]
Move = Callable[[str, np.ndarray, np.ndarray, dict[str, Any], Any, int], np.ndarray]
"""(name, weight, clipped gradient, what is kept of it, hyper-parameters, the step from 1) → the weight after it."""
BLOCK = 256


@dataclass(frozen=True)
class Formula:
    """What a step does to a weight, and where float32 can be compared with it."""

    move: Move
    options: Mapping[str, float] = field(default_factory=dict)
    rtol: float = 1e-5
    atol: float = 1e-6


def after(
    move: Move, weights: Weights, gradients: list[Weights], steps: list[Any], dtype: torch.dtype
) -> tuple[Weights, list[float]]:
    """The weights after these steps, and the norms before clipping; matrices, and their gradients, start in `dtype`."""
    weights = {name: _in(weight, dtype) for name, weight in weights.items()}
    kept: dict[str, dict[str, Any]] = {name: {} for name in weights}
    norms = []
    for t, (raw, p) in enumerate(zip(gradients, steps, strict=True), start=1):
        given = {name: _in(gradient, dtype) for name, gradient in raw.items()}
        norms.append(float(np.sqrt(sum((gradient**2).sum() for gradient in given.values()))))
        # torch divides by the norm + 1e-6
        scale = 1.0 if p.clip_norm is None else min(1.0, p.clip_norm / (norms[-1] + 1e-6))
        for name, gradient in given.items():
            clipped = gradient if scale == 1 else _in(gradient * scale, dtype)
            weights[name] = move(name, weights[name], clipped, kept[name], p, t)
    return weights, norms


def _in(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    narrow = dtype if values.ndim >= 2 else torch.float32
    return torch.from_numpy(values.astype(np.float32)).to(narrow).double().numpy()


def _adamw_step(weight: np.ndarray, m: np.ndarray, v: np.ndarray, p: Any, t: int) -> np.ndarray:
    m, v = m / (1 - p.beta1**t), v / (1 - p.beta2**t)
    decayed: np.ndarray = weight - p.learning_rate * p.weight_decay * weight
    return decayed - p.learning_rate * m / (np.sqrt(v) + p.eps)


def adamw(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """arXiv 1711.05101, algorithm 2."""
    kept["m"] = p.beta1 * kept.get("m", 0.0) + (1 - p.beta1) * g
    kept["v"] = p.beta2 * kept.get("v", 0.0) + (1 - p.beta2) * g**2
    return _adamw_step(weight, kept["m"], kept["v"], p, t)


def adamw8bit(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """The same, its moments rounded to the nearest of 256 values over the largest of their block (arXiv 2110.02861)."""
    found = adamw(name, weight, g, kept, p, t)
    if weight.ndim >= 2:
        kept["m"], kept["v"] = _in_bytes(kept["m"], signed=True), _in_bytes(kept["v"], signed=False)
    return found


def _in_bytes(values: np.ndarray, *, signed: bool) -> np.ndarray:
    known = codes.create_dynamic_map(signed=signed).double().numpy()
    flat = values.flatten()
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        largest = np.abs(block).max() or 1.0
        block[:] = known[np.abs(block[:, None] / largest - known).argmin(1)] * largest
    return flat.reshape(values.shape)


def by_chance(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """Moments of 8 bits; the weight goes up or down by what `narrow` draws for the name, the step and the place."""
    found = adamw8bit(name, weight, g, kept, p, t)
    if weight.ndim < 2:
        return found
    wide = torch.from_numpy(found.astype(np.float32)).flatten()
    return round_by_chance(wide, mixed(zlib.crc32(name.encode()), t, 0)).double().numpy().reshape(weight.shape)


def with_remainder(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """Moments of 8 bits; the weight has 24 bits, of which 16 are seen."""
    if weight.ndim < 2:
        return adamw(name, weight, g, kept, p, t)
    seen = torch.from_numpy(weight.astype(np.float32)).to(torch.bfloat16).flatten()
    whole = joined(seen, kept.get("remainder", torch.zeros_like(seen, dtype=torch.int8)))
    found = adamw8bit(name, whole.double().numpy().reshape(weight.shape), g, kept, p, t)
    seen, kept["remainder"] = split(torch.from_numpy(found.astype(np.float32)).flatten())
    return seen.double().numpy().reshape(weight.shape)


def nearest(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """All is rounded to bfloat16 once a step."""
    found = adamw(name, weight, g, kept, p, t)
    kept["m"], kept["v"] = _in(kept["m"], torch.bfloat16), _in(kept["v"], torch.bfloat16)
    return _in(found, torch.bfloat16)


def adafactor(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """arXiv 1804.04235, algorithm 5: no momentum, β₂ = 1 − t^−0.8, d = 1, ε₂ = 10⁻³; ε₁ guards a division only."""
    mix = t**-0.8
    size = max(1e-3, float(np.sqrt((weight**2).mean()))) * min(p.learning_rate, t**-0.5)
    if weight.ndim >= 2:
        for key, axis in (("row", -1), ("column", -2)):
            mean = (g**2).mean(axis, keepdims=True)
            kept[key] = (1 - mix) * kept.get(key, 0.0) + mix * mean
        v = kept["row"] * kept["column"] / kept["row"].mean(-2, keepdims=True)
    else:
        v = kept["v"] = (1 - mix) * kept.get("v", 0.0) + mix * g**2
    update = g / np.sqrt(v)
    update = update / max(1.0, float(np.sqrt((update**2).mean())))
    decayed: np.ndarray = weight - p.learning_rate * p.weight_decay * weight
    return decayed - size * update


def muon(name: str, weight: np.ndarray, g: np.ndarray, kept: dict[str, Any], p: Any, t: int) -> np.ndarray:
    """arXiv 2502.16982, Nesterov's momentum of 0.95; five steps of a Newton-Schulz iteration, and 0.2·√max(shape)."""
    if weight.ndim < 2:
        return adamw(name, weight, g, kept, p, t)
    kept["b"] = 0.95 * kept.get("b", 0.0) + 0.05 * g
    update = 0.95 * kept["b"] + 0.05 * g
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if update.shape[0] > update.shape[1] else x
    decayed: np.ndarray = weight - p.learning_rate * p.weight_decay * weight
    return decayed - p.learning_rate * 0.2 * np.sqrt(max(weight.shape)) * x


FORMULAS: dict[str, Formula] = {
    "adamw": Formula(adamw, {"eps": 1e-3}),
    "adamw8bit": Formula(adamw8bit, {"eps": 1e-3}),
    # The last bit of float32 may tell which way a number goes: one place of bfloat16.
    "bf16": Formula(by_chance, {"eps": 1e-3}, rtol=2**-7),
    "bf16-split": Formula(with_remainder, {"eps": 1e-3}),
    "bf16-nearest": Formula(nearest, {"eps": 1e-3}),
    "adafactor": Formula(adafactor),
    # torch takes the iteration in bfloat16: to 1 % of the rates' sum, 0.15, at 0.2 · √5 each.
    "muon": Formula(muon, {"eps": 1e-3}, atol=2e-3),
}
"""A reference of each optimizer in NumPy, and hyper-parameters at which float32 can be compared with it."""
