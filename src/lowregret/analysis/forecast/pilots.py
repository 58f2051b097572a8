"""What pilots say of a LoRA's regret: numbers without units, from the search's curves up to a step. Torch-free.

A pilot is the first part of a trial. All that is read off it is a share of what full fine-tuning has learned by then or
a count of steps, so that bases, tokenizers and data compare.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowregret.analysis.lag import steps_to
from lowregret.runs.bank import BankEntry, BankMethod
from lowregret.spec import FullFT, LoRA, build
from lowregret.spec.method import parse_method

Curve = Mapping[int, float]
FULL = FullFT().name
LEAST_LEARNED = 1e-3
"""Nats, below which FullFT has learned nothing that a regret could be a share of."""
_AS_LONG = math.sqrt(2)
"""Pilots whose lengths are within this factor, either way, are taken to be of one length."""
_RECENT = math.sqrt(2) ** 2.5
"""The evaluations that are averaged lie within this factor of the pilot's last step: three of those that a run has by
default, each a factor of √2 after the other."""

_USUAL_NAMES: Mapping[str, Sequence[str]] = {
    "attention": [
        *(f"model.layers.0.self_attn.{name}_proj" for name in ("q", "k", "v", "o", "qkv")),
        *(f"transformer.h.0.attn.{name}" for name in ("c_attn", "c_proj")),
    ],
    "mlp": [
        *(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "gate_up", "down")),
        *(f"transformer.h.0.mlp.{name}" for name in ("c_fc", "c_proj")),
    ],
    "experts": ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"],
}
"""Of matrices in Llama, Phi-3, GPT-2 and fused experts."""


@dataclass(frozen=True)
class Room:
    """What is known of a LoRA before any pilot."""

    parameters: int
    attention_alone: bool
    """Whether it leaves the MLP out."""


@dataclass(frozen=True)
class Pilots(Room):
    """A LoRA's pilots and FullFT's, of equal steps, each at the rate that is best at their end."""

    step: int
    steps: int
    """Of the whole run."""
    epochs: float
    """Of the whole run."""
    base_nll: float
    full: Curve
    lora: Curve

    def learned(self) -> float:
        """Nats that FullFT has learned by the pilot's end."""
        return self.base_nll - self.full[self.step]

    def regret(self) -> float:
        """Now, as a share of what FullFT has learned: over the last evaluations, since one is noisy."""
        steps = sorted(step for step in self.full.keys() & self.lora.keys() if 0 < step <= self.step)
        recent = [step for step in steps if step * _RECENT >= self.step]
        return statistics.fmean(
            (self.lora[step] - self.full[step]) / max(self.base_nll - self.full[step], LEAST_LEARNED) for step in recent
        )

    def lag(self) -> float | None:
        """Steps of LoRA over those of FullFT for the loss that LoRA has now; None where the curves do not say."""
        reached = steps_to(self.full, self.lora[self.step])
        if reached is None:
            ahead = steps_to(self.lora, self.full[self.step])
            return None if ahead is None else ahead / self.step
        return self.step / reached

    def slope(self) -> float:
        """Of what FullFT has learned by now the share that it learned in the last doubling of the steps."""
        half = min(self.full, key=lambda step: abs(math.log(2 * step / self.step)) if step else math.inf)
        return (self.full[half] - self.full[self.step]) / max(self.learned(), LEAST_LEARNED)


def pilot_steps(curves: Sequence[Curve], share: float, steps: int) -> int | None:
    """The last evaluation that all of these have within a share of the run; None when there is none."""
    common = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    last = share * steps * (1 + 1e-9)  # a share that was a step over the steps is that step again
    return max((step for step in common if 0 < step <= last), default=None)


def nearest_step(curves: Sequence[Curve], share: float, steps: int) -> int | None:
    """The evaluation of all of these that is nearest to a share of the run, by its logarithm; None when there is none
    of about that length. One before it would be a shorter pilot, from which more is to come."""
    common = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    far = {step: abs(math.log(step / (share * steps))) for step in common if step > 0}
    best = min(far, key=lambda step: (far[step], step), default=None)
    return best if best is not None and far[best] <= math.log(_AS_LONG) + 1e-9 else None


def best_curve(method: BankMethod, step: int) -> Curve | None:
    """The curve of the rate that is best at a step, up to there; None when none got so far."""
    there = [curve.losses for curve in method.curves if step in curve.losses]
    if not there:
        return None
    best = min(there, key=lambda losses: losses[step])
    return {at: loss for at, loss in best.items() if at <= step}


def pilots_at(entry: BankEntry, name: str, step: int) -> Pilots | None:
    """The pilots of a LoRA in a comparison, as they were after a step; None where there were none, or full fine-tuning
    had learned nothing by then."""
    full, lora = entry.method(FULL), entry.method(name)
    if full is None or lora is None:
        return None
    curves = best_curve(full, step), best_curve(lora, step)
    if curves[0] is None or curves[1] is None or entry.base_nll - curves[0][step] < LEAST_LEARNED:
        return None
    return Pilots(
        step=step,
        steps=entry.steps,
        epochs=entry.epochs,
        base_nll=entry.base_nll,
        full=curves[0],
        lora=curves[1],
        parameters=lora.parameters,
        attention_alone=attention_alone(name),
    )


def attention_alone(name: str) -> bool:
    """Whether a LoRA of this name adapts attention, and no MLP. A pattern is held to the usual names of matrices, for a
    bank keeps no base's own."""
    targets = build(LoRA, parse_method(name)).targets
    if targets[0].startswith("re:"):
        pattern = re.compile(targets[0].removeprefix("re:"))
        groups = {group for group, names in _USUAL_NAMES.items() if any(map(pattern.search, names))}
    else:
        groups = set(targets)
    return "attention" in groups and not {"mlp", "experts"} & groups


def longest(method: BankMethod) -> Curve:
    """Of the method's curves the one that goes furthest."""
    return max((curve.losses for curve in method.curves), key=len, default={})
