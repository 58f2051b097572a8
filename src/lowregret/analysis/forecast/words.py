"""A forecast in sentences. Torch-free."""

from __future__ import annotations

import math

from lowregret.analysis.numbers import nats
from lowregret.runs.forecast import Forecast, ForecastedRegret
from lowregret.runs.verdict import Verdict

_SURE = 0.9
"""The chance from which a forecast is called one side of the tolerance."""


def sentences(found: Forecast) -> list[str]:
    """What is expected of each LoRA, how sure that is, and what it rests on."""
    if found.learned is None:
        rests = f"By its parameters and placement, with nothing trained, and {found.bank}."
        more = "Pilots say more: --budget 10%. "
    else:
        pilots = f"pilots of {found.step} of {found.steps} steps, {found.cost:.0%} of a full comparison's"
        within = "" if found.learned_interval is None else f" ({' to '.join(map(nats, found.learned_interval))})"
        learns = f"Full fine-tuning is expected to learn {nats(found.learned)} nats per token{within}."
        rests, more = f"By {pilots}, and {found.bank}. {learns}", ""
    return [
        *(_of(regret, found) for regret in found.forecasts),
        rests,
        *found.notes,
        f"{more}To measure it: run `lowregret compare` with the same flags and --out; it goes on from here.",
    ]


def expected_lines(found: Forecast, tolerance: float | None) -> list[str]:
    """A line for each LoRA of which something is forecast, to be shown while it is measured.

    `tolerance` is that of the measurement, as a share of what FullFT learns; None where that is not known. On which
    side of it a regret lies is said of the tolerance alone that the forecast was made for.
    """
    same = tolerance is not None and math.isclose(tolerance, found.tolerance, rel_tol=1e-6)
    return [f"forecast: {_of(regret, found, sided=same)}" for regret in found.forecasts if not regret.says_nothing]


def beside(found: Forecast, verdict: Verdict) -> list[str]:
    """What was forecast beside what was measured, of the LoRA that a verdict is of; [] where either is not there."""
    regret = None if verdict.lora is None else found.of(verdict.lora.name)
    if regret is None or regret.says_nothing or verdict.regret_learned is None:
        return []
    low, high = regret.share_interval
    inside = "inside" if low <= verdict.regret_learned <= high else "outside"
    source = "before any training" if found.step == 0 else f"by pilots of {found.step} steps"
    return [
        f"Forecast {source}: a regret of {regret.share:+.1%} of what full fine-tuning learns ({low:+.1%} to "
        f"{high:+.1%} in nine of ten cases); the measured {verdict.regret_learned:+.1%} lies {inside}."
    ]


def _of(regret: ForecastedRegret, found: Forecast, *, sided: bool = True) -> str:
    low, high = regret.share_interval
    pilots = ""
    if regret.at_pilot is not None:
        lag = "" if regret.lag is None else f", at {regret.lag:.2g} times the steps"
        pilots = f" In the pilots it is {regret.at_pilot:+.1%}{lag}."
    if regret.says_nothing:
        return f"{regret.method}: nothing is forecast: the bank has too little that is like this case.{pilots}"
    chance = regret.chance_low
    side = (
        f"below the tolerance of {found.tolerance:.1%}"
        if chance >= _SURE
        else f"above the tolerance of {found.tolerance:.1%}"
        if chance <= 1 - _SURE
        else f"on either side of the tolerance of {found.tolerance:.1%}, below it with a chance of {chance:.0%}"
    )
    where = f": {side}" if sided else ""
    absolute = ""
    if regret.regret_nats is not None and regret.nats_interval is not None:
        least, most = (nats(edge, sign=True) for edge in regret.nats_interval)
        absolute = f", {nats(regret.regret_nats, sign=True)} nats ({least} to {most})"
    return (
        f"{regret.method}: a regret of {regret.share:+.1%} of what full fine-tuning learns is expected ({low:+.1%} to "
        f"{high:+.1%} in nine of ten cases){absolute}{where}.{pilots}"
    )
