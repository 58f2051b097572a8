"""What a LoRA is expected to lose against full fine-tuning, as a share of what the latter learns. Torch-free.

Regret goes by the bits that the data have to teach, a parameter of the adapter: next to none where there is room, and
more and more where there is not. One curve of two constants, share = 1 / (1 + (half / bits a parameter)^steepness),
stands for all data; `half`, where half would be lost, depends on what the bits are bits of. Two things come on top
that no rank changes: a lag where facts are taught in a short run, and adapters on attention alone.

The curve was measured on facts and a base of 1 M parameters: docs/findings/2026-11-29-capacity-advice.md, "the finding"
below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from lowregret.analysis.edl import Regime
from lowregret.plan.advice.capacity import ELICIT_BITS, TEACH_BITS, Information, Unit
from lowregret.plan.formatting import share as percent

STEEPNESS = 1.4
"""By least squares on the 16 cells of `study rank` with more than an epoch (the finding); 1.1 by those of 32 people
alone, 1.5 by those of 128."""
NEGLIGIBLE = 0.01
"""Of what FullFT learns: where a regret is worth a warning, and above which capacity binds. Regrets of seeds alone
reach it: the cells of 0.01 bit a parameter and less lie between -2.1 and +0.5 % (the finding)."""
_UNTOLD = 0.001
"""Of what FullFT learns: below it the curve's own digits say nothing."""
LOSING = 0.05
"""Of what FullFT learns: where a rank is said to lose in *Bits That Count* (SCIENCE 5), and the verdict's default
tolerance."""
_FACTS = 0.85
"""Bits of facts a parameter at which half would be lost (the finding)."""
_SPREAD = 1.5
"""On bits, either way: the shares of all cells that lost 1 % or more lie within (the finding)."""
_TOKENS_A_FACT_BIT = 5.95
_LOSS_A_FACT_BIT = 15.0
_EDL_A_FACT_BIT = 3.8
"""Supervised tokens, bits of the base's own loss, and bits of EDL for a bit of those facts, each told six times (the
finding): the same curve in the units that data have of which nothing else is known."""
LAG, LAG_LARGER, LARGER_BASE = (0.02, 0.05, 0.1), (0.0, 0.02, 0.05), 1e7
"""Of what FullFT learns, at any rank, where facts are taught: least, middle and most over ten settings of 0.4 to 1.04
epochs of a base of 1 M parameters (the finding); and of SmolLM2-135M, which after an epoch was 0.9 to 3.2 % behind at
ranks 4 to 64, batches 4 and 16, and ahead at batch 48 (docs/findings/2026-11-29-smollm2-studies.md). Where between the
two sizes it changes is our assumption."""
LAG_EPOCHS = 1.6
"""Passes from which on LoRA was level: behind at 1.04, ahead at 1.67, and level near step 190 of 120 a pass in the
demo (SCIENCE 6; the finding)."""
LAG_FACTOR = (1.2, 2.0)
"""Steps that LoRA needs over those that FullFT needs for the same loss (SCIENCE 6)."""
ATTENTION_ALONE = (0.04, 0.065, 0.11)
"""Of what FullFT learns: 4 % behind the MLP on SmolLM2 (docs/findings/2026-11-24-smollm2-rates-and-layers.md), 11 %
behind attention and MLP on `tiny` in `study layers` (the finding), and the middle of both."""


@dataclass(frozen=True)
class Curve:
    """Where half would be lost, in bits a parameter."""

    half: float
    low: float
    high: float
    """`half` of the end of the range with little regret, and of that with much."""
    source: str

    def at(self, each: float) -> tuple[float, float, float]:
        """(value, low, high) of the share lost at so many bits a parameter."""
        return _lost(each, self.half), _lost(each, self.low), _lost(each, self.high)

    def room(self, share: float = NEGLIGIBLE) -> float:
        """Bits a parameter at which `share` is lost."""
        return self.half * _below_half(share)


def _lost(each: float, half: float) -> float:
    return 1 / (1 + (half / each) ** STEEPNESS) if each > 0 else 0.0


def _below_half(share: float) -> float:
    """Bits a parameter at which `share` is lost, over those at which half is."""
    return float((share / (1 - share)) ** (1 / STEEPNESS))


def _ours(scale: float, source: str) -> Curve:
    half = _FACTS * scale
    return Curve(half, half * _SPREAD, half / _SPREAD, source)


_HERE = "measured on facts and a base of 1 M parameters, docs/findings/2026-11-29-capacity-advice.md"
_TAUGHT = _ours(_EDL_A_FACT_BIT, f"{_HERE}; 5 % is lost at 0.7 to 2.2 bits of EDL in *Bits That Count*")
_EDL_TAUGHT = Curve(_TAUGHT.half, TEACH_BITS[1] / _below_half(LOSING), _TAUGHT.high, _TAUGHT.source)
_EDL_ELICITED = Curve(
    math.sqrt(ELICIT_BITS[0] * ELICIT_BITS[1]) / _below_half(LOSING),
    ELICIT_BITS[1] / _below_half(LOSING),
    ELICIT_BITS[0] / _below_half(LOSING),
    "5 % is lost at 0.02 to 0.05 bits of EDL where training elicits, in *Bits That Count*",
)
CURVES: Mapping[tuple[Unit, Regime], Curve] = MappingProxyType(
    {
        ("facts", "teach"): _ours(1.0, _HERE),
        ("tokens", "unknown"): _ours(_TOKENS_A_FACT_BIT, f"{_HERE}, by their tokens"),
        ("loss", "unknown"): _ours(_LOSS_A_FACT_BIT, f"{_HERE}, by the base's loss on them"),
        ("edl", "teach"): _EDL_TAUGHT,
        ("edl", "elicit"): _EDL_ELICITED,
        ("edl", "unknown"): replace(_EDL_TAUGHT, high=_EDL_ELICITED.high),
    }
)
"""By what the bits are and what training does with them. An unknown regime is read as teaching, the case with more to
lose in the first two units; of EDL both readings are known, and the range has both."""


@dataclass(frozen=True)
class ExpectedRegret:
    """Shares of what FullFT learns: 0.11 is 11 %."""

    value: float
    """In an unknown regime: if training teaches new facts."""
    low: float
    high: float
    regime: Regime
    source: str
    lag: float
    """Of `value`: what a short run loses at any rank."""
    placement: float
    """Of `value`: what adapters on attention alone lose at any rank."""
    bits_per_parameter: float
    """Bits that the run has to teach, by parameter."""
    epochs: float
    """Passes over the data."""

    @property
    def capacity(self) -> float:
        """Of `value`: what a higher rank would save."""
        return self.value - self.lag - self.placement

    def as_dict(self) -> dict[str, Any]:
        """The `expected_regret` of --json."""
        return asdict(self)

    def short(self) -> str:
        """`11 % (7.1 to 17 %)`; the low end of an unknown regime is another case: `11 % (up to 17 %)`."""
        if self.high < _UNTOLD:
            return f"under {percent(_UNTOLD)}"
        low = "up" if self.regime == "unknown" else percent(self.low).removesuffix(" %")
        return f"{percent(self.value)} ({low} to {percent(self.high)})"

    def said(self) -> str:
        """`11 % (7.1 to 17 %) of what full fine-tuning learns`."""
        return f"{self.short()} of what full fine-tuning learns"

    def parts(self) -> list[str]:
        """What it is made of where that is worth saying, each with what would lower it."""
        few, many = LAG_FACTOR
        said = []
        if self.capacity > NEGLIGIBLE:
            each = f"{self.bits_per_parameter:.2g} bit a parameter"
            said.append(f"{percent(self.capacity)} by {each} (raise the rank, or train all weights)")
        if self.lag:
            close = f"{few:g} to {many:.1f} times the steps close it"
            said.append(f"{percent(self.lag)} at any rank in less than {LAG_EPOCHS:g} epochs ({close})")
        if self.placement:
            said.append(f"{percent(self.placement)} by attention alone")
        return said


def expected_regret(
    information: Information, by_target: Mapping[str, int], base: float, *, epochs: float = 1.0
) -> ExpectedRegret | None:
    """What a LoRA is expected to lose; None with rewards, of which no curve is known.

    Args:
        information: what the data have to teach.
        by_target: the adapter's parameters, by what they adapt (`lora_parameters`).
        base: parameters of the base.
        epochs: passes that the run makes; what it does not reach teaches nothing.
    """
    if information.unit == "rewards":
        return None
    each = information.to_hold * min(epochs, 1.0) / max(sum(by_target.values()), 1)
    curve = CURVES[information.unit, information.regime]
    value, low, high = curve.at(each)
    behind, lag = LAG if base < LARGER_BASE else LAG_LARGER, (0.0, 0.0, 0.0)
    if information.regime == "teach" and epochs < LAG_EPOCHS:
        # What is learned by then is less than what there is to learn, so that the low end is the lag alone.
        low, lag = 0.0, behind
    elif information.regime == "unknown" and epochs < LAG_EPOCHS:
        low, lag = 0.0, (0.0, *behind[1:])
    placed = ATTENTION_ALONE if on_attention_alone(by_target) else (0.0, 0.0, 0.0)
    if information.regime == "unknown" and information.unit != "edl":
        low = 0.0
    ends = (min(part + late + place, 1.0) for part, late, place in zip((low, value, high), lag, placed, strict=True))
    low, value, high = ends
    return ExpectedRegret(value, low, high, information.regime, curve.source, lag[1], placed[1], each, epochs)


def on_attention_alone(by_target: Mapping[str, int]) -> bool:
    """Whether adapters leave the MLP out, and the experts: clearly worse, even with more parameters (SCIENCE 3.6)."""
    return {target for target, count in by_target.items() if count} in ({"attention"}, {"attention", "unembedding"})


def room(information: Information, share: float = NEGLIGIBLE) -> float:
    """Bits a parameter that an adapter takes before it loses `share` of what FullFT learns.

    With rewards the least at which a rank began to lose when taught facts: rank 1 is enough there (SCIENCE 3.7).
    """
    if information.unit == "rewards":
        return TEACH_BITS[0]
    return CURVES[information.unit, information.regime].room(share)
