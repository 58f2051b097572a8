"""How far each part of a plan may be trusted for this very case, and which measurement would tell most. Torch-free.

Every law of the plan was fitted or checked on some bases, data and machines. Inside of those a part is as sure as it
was there; outside it is said what is missing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lowregret.plan.advice.advise import Advised
from lowregret.plan.advice.capacity import Information
from lowregret.plan.advice.choice import SHORT_RUN_STEPS
from lowregret.plan.advice.regret import LOSING, ExpectedRegret
from lowregret.plan.formatting import share as percent
from lowregret.plan.rates.recommend import RatePrior
from lowregret.plan.rates.reward import by_reward
from lowregret.plan.rates.term import Known
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.shapes.weights import Shapes
from lowregret.quantities import count
from lowregret.spec import LoRA

_LARGEST_OF_FACTS = 1e7
"""Parameters: the curve of capacity was measured on a base of a tenth of this
(docs/findings/2026-11-29-capacity-advice.md)."""
_MOST_BITS = 0.31
"""A parameter: of the cells that the curve was fitted on, all of more than an epoch (the same finding)."""
_HOW_FAR = "from three bases, missed by up to 2.1 on those and when left out"
"""docs/findings/2026-11-29-rates-elsewhere.md; rank 1 on facts on SmolLM2, `benchmarks.advice`."""
_BY_ACCURACY = {False: 4, True: 9}
"""Of LoRAs and of full fine-tuning: the advised rate over the best by accuracy, the farthest of plain methods in
benchmarks/tables/unseen_rates.csv (Qwen3-0.6B-Base on MetaMathQA, and OLMo 2 of 32 B)."""
_WIDE = 2.0
"""Factor on either side from which on an interval of the learning rate is worth a search of its own: a bowl is flat
within a factor of 2."""
About = Literal["learning rate", "regret", "memory and time"]
Tells = Literal["data", "regime", "rate", "regret"]


@dataclass(frozen=True)
class Trusted:
    """One part of the plan."""

    about: About
    inside: bool
    """Of what its law was fitted or checked on."""
    said: str


@dataclass(frozen=True)
class Telling:
    """The measurement that would tell most."""

    tells: Tells
    said: str


@dataclass(frozen=True)
class Trust:
    """Of a whole plan."""

    parts: tuple[Trusted, ...]
    pilot: Telling

    def as_dict(self) -> dict[str, Any]:
        """The `trust` of --json."""
        return asdict(self)


def trust(shapes: Shapes, found: Advised, hardware: Hardware | None, devices: int = 1) -> Trust:
    """Judge each part.

    Args:
        shapes: the model.
        found: what is advised, and what it was made from.
        hardware, devices: what time and memory are planned for.
    """
    parts = (
        _rate(found.lora_rate, full=False) if isinstance(found.method, LoRA) else _rate(found.full_rate, full=True),
        _regret(shapes, found.information, found.expected),
        *(() if hardware is None else (_resources(hardware, devices),)),
    )
    return Trust(parts, _telling(found))


def _rate(rate: RatePrior, *, full: bool) -> Trusted:
    within = f"nine in ten best rates should lie within a factor of {math.sqrt(rate.high / rate.low):.2g}"
    if not by_reward(rate.terms):
        within += f" by loss; by a benchmark's accuracy some lie up to {_BY_ACCURACY[full]} times lower"
    measured, assumed = (_listed(rate, known) for known in ("measured", "assumed"))
    if not measured and not assumed:
        return Trusted("learning rate", True, f"inside of the public sweep that its law was fitted on; {within}.")
    how = "from three sweeps" if by_reward(rate.terms) else _HOW_FAR
    reasons = [f"{measured} ({how})" if measured else "", f"{assumed} (our assumption)" if assumed else ""]
    outside = "; ".join(filter(None, reasons))
    return Trusted("learning rate", False, f"outside of the public sweep in {outside}; {within}.")


def _listed(rate: RatePrior, known: Known) -> str:
    return ", ".join(dict.fromkeys(term.about for term in rate.terms if term.known == known))


def _regret(shapes: Shapes, information: Information | None, expected: ExpectedRegret | None) -> Trusted:
    if information is None:
        return Trusted("regret", False, "no data, so nothing is expected.")
    if expected is None:
        return Trusted(
            "regret", False, "by reward rank 1 was enough on the three bases that were tried; no curve is known."
        )
    large, known = shapes.total > _LARGEST_OF_FACTS, information.unit == "facts"
    short, each = expected.epochs < 1, expected.bits_per_parameter
    if known and not large and not short and each <= _MOST_BITS:
        return Trusted("regret", True, "inside: facts of known bits, told to a base of about a million parameters.")
    reasons = [
        f"measured on a base of 1 M parameters, not {count(shapes.total)}" if large else "",
        "" if known else "the bits of these data are bounded, not known",
        "they may teach or draw out" if expected.regime == "unknown" else "",
        information.pilot_doubt,
        "measured in runs of an epoch and more" if short else "",
        f"measured up to {_MOST_BITS:g} bit a parameter, not {each:.2g}" if known and each > _MOST_BITS else "",
    ]
    return Trusted("regret", False, f"outside: {'; '.join(filter(None, reasons))}.")


def _resources(hardware: Hardware, devices: int) -> Trusted:
    """By docs/findings/2026-11-24-plan-beside-what-happens.md and 2026-11-29-plan-beside-peft-comparison.md."""
    if devices > 1:
        said = "outside: counted; of several devices bytes were held to two processes on a CPU, times to nothing."
        return Trusted("memory and time", False, said)
    if hardware.kind == "cpu":
        said = "inside: in 32 runs on a CPU memory was within 10 % in 31, time within 22 % in 30."
        return Trusted("memory and time", True, said)
    return Trusted("memory and time", False, "outside: counted, and held to other people's runs on GPUs only.")


def _telling(found: Advised) -> Telling:
    """What is least known and moves the choice most: the data, then the regime, then the rate, then the regret."""
    rates, information, expected = (found.lora_rate, found.full_rate), found.information, found.expected
    if information is None:
        return Telling("data", "your data: name a file, and length, capacity and an expected regret are worked out.")
    if expected is not None and expected.regime == "unknown" and expected.high >= LOSING:
        return Telling(
            "regime",
            "one pass of `lowregret train`, evaluated five times in its second half (`evals`), then --pilot: "
            f"whether data teach or draw out is worth {percent(expected.high - expected.low)} of what is learned.",
        )
    widest = max(math.sqrt(rate.high / rate.low) for rate in rates)
    if by_reward(rates[0].terms):
        return Telling(
            "rate",
            "`lowregret compare` with --seeds 1: its search comes from below, and one of the best rates is known to a "
            f"factor of {widest:.2g} only.",
        )
    if widest > _WIDE:
        tenth = " on a tenth of the steps" if found.choice.steps >= 10 * SHORT_RUN_STEPS else ""
        return Telling(
            "rate",
            f"`lowregret compare` with --seeds 1{tenth}, for both best rates: one is known to a factor of "
            f"{widest:.2g} only. In under {SHORT_RUN_STEPS} steps they are others: up to 3.7 times as high.",
        )
    return Telling("regret", "`lowregret compare --until-decided`: it stops when the choice is settled.")
