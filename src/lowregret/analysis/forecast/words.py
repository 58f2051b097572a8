"""A forecast in sentences. Torch-free."""

from __future__ import annotations

from lowregret.analysis.numbers import nats
from lowregret.runs.forecast import Forecast, ForecastedRegret

_SURE = 0.9
"""The chance from which a forecast is called one side of the tolerance."""


def sentences(found: Forecast) -> list[str]:
    """What is expected of each LoRA, how sure that is, and what it rests on."""
    pilots = f"pilots of {found.step} of {found.steps} steps, {found.cost:.0%} of a full comparison's"
    return [
        *(_of(regret, found) for regret in found.forecasts),
        f"By {pilots}, and {found.bank}. Full fine-tuning is expected to learn {nats(found.learned)} nats per token.",
        *found.notes,
        "To measure it: run `lowregret compare` with the same flags and --out; it goes on from the pilots.",
    ]


def _of(regret: ForecastedRegret, found: Forecast) -> str:
    low, high = regret.share_interval
    pilots = f"In the pilots it is {regret.at_pilot:+.1%}, at {regret.lag:.2g} times the steps."
    if regret.says_nothing:
        return f"{regret.method}: nothing is forecast: the bank has too little that is like this case. {pilots}"
    chance = regret.chance_low
    side = (
        f"below the tolerance of {found.tolerance:.1%}"
        if chance >= _SURE
        else f"above the tolerance of {found.tolerance:.1%}"
        if chance <= 1 - _SURE
        else f"on either side of the tolerance of {found.tolerance:.1%}, below it with a chance of {chance:.0%}"
    )
    return (
        f"{regret.method}: a regret of {regret.share:+.1%} of what full fine-tuning learns is expected ({low:+.1%} to "
        f"{high:+.1%} in nine of ten cases), {nats(regret.regret_nats)} nats: {side}. {pilots}"
    )
