"""Tinker's losses by their names there, as the engine's: sums over tokens, by the weights that come with them.

Thresholds of ppo and cispo are ratios themselves, 0.8 and 1.2 or 0 and 4 when not given, where the engine's are
distances from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from lowregret.engine import losses as own
from lowregret.engine.losses import Loss
from lowregret.serve.problems import Problem

_RATIO = ("logprobs", "advantages")
LARGEST = 1e6
"""Of a setting."""


@dataclass(frozen=True)
class TinkerLoss:
    """A loss, what it takes of each token, and what may be set."""

    make: Callable[[Mapping[str, float]], Loss]
    columns: tuple[str, ...] = ()
    settings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """With their defaults."""

    def check(self, config: Mapping[str, float | str]) -> None:
        """Problem 400 for settings that it does not take."""
        for name, value in config.items():
            if name not in self.settings:
                valid = ", ".join(self.settings) or "none"
                raise Problem(400, f"loss_fn_config: {name[:50]!r} is no setting of this loss. Valid: {valid}.")
            if isinstance(value, str) or not math.isfinite(value) or not 0 <= value <= LARGEST:
                raise Problem(400, f"loss_fn_config: {name} is a number from 0 to {LARGEST:g}.")
        low, high = (
            float({**self.settings, **config}.get(name, 0.0)) for name in ("clip_low_threshold", "clip_high_threshold")
        )
        if low > high:
            raise Problem(400, "loss_fn_config: clip_low_threshold is above clip_high_threshold.")

    def of(self, config: Mapping[str, float | str]) -> Loss:
        """The engine's loss for settings that were checked."""
        if not self.settings:
            return self.make({})
        return self.make({**self.settings, **{name: float(value) for name, value in config.items()}})

    @staticmethod
    def spelled(column: str) -> str:
        """The engine's name of a column."""
        return "sampler_logprobs" if column == "logprobs" else column


def _clips(low: float, high: float) -> Mapping[str, float]:
    return MappingProxyType({"clip_low_threshold": low, "clip_high_threshold": high})


def _clipped(loss: Loss) -> Callable[[Mapping[str, float]], Loss]:
    def make(given: Mapping[str, float]) -> Loss:
        return partial(loss, low=1 - given["clip_low_threshold"], high=given["clip_high_threshold"] - 1)

    return make


LOSSES: Mapping[str, TinkerLoss] = MappingProxyType(
    {
        "cross_entropy": TinkerLoss(lambda given: own.cross_entropy),
        "importance_sampling": TinkerLoss(lambda given: own.importance_sampling, _RATIO),
        "ppo": TinkerLoss(_clipped(own.ppo_clip), _RATIO, _clips(0.8, 1.2)),
        "cispo": TinkerLoss(_clipped(own.cispo), _RATIO, _clips(0.0, 4.0)),
        "dro": TinkerLoss(lambda given: partial(own.dro, beta=given["beta"]), _RATIO, MappingProxyType({"beta": 0.05})),
    }
)
"""All that are answered, by Tinker's names."""
