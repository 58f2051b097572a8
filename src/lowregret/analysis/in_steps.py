"""What the lag says in sentences: the regret in steps, what they cost, and whether the gap closes. Torch-free."""

from __future__ import annotations

from lowregret.analysis.numbers import Scale, nats
from lowregret.runs.verdict import Lag

_STILL = 0.05
"""A run in whose second half more than this share of everything is learned is short: our reading."""


def in_steps(name: str, lag: Lag | None, scale: Scale) -> list[str]:
    """The regret in steps, what they cost, and whether the gap closes."""
    if lag is None:
        return []
    if lag.factor is None:
        return [f"In steps the regret cannot be told. {lag.note}".strip()] if lag.note else []
    within = _between(lag.low, lag.high)
    if lag.extrapolated:
        said = (
            f"In steps: {name} needs {_times(lag.factor)} the steps of full fine-tuning for the same {scale.noun}"
            f"{within}, measured where it ends; that it stays so up to where full fine-tuning ends is an extrapolation."
        )
    else:
        said = (
            f"In steps: {name} reaches where full fine-tuning ends after {_times(lag.factor)} its steps{within}; full "
            f"fine-tuning needs {_times(1 / lag.factor)} LoRA's."
        )
    costs = [
        f"{_times(value)} the {what}"
        for what, value in (("time", lag.seconds), ("arithmetic", lag.multiply_adds))
        if value
    ]
    priced = "" if lag.dollars is None else f", {lag.dollars[0]:.2f} dollars instead of {lag.dollars[1]:.2f}"
    if costs:
        said += f" A LoRA run of that length takes {' and '.join(costs)} of full fine-tuning's{priced}."
    return [" ".join(filter(None, (said, lag.note))), *_trend(lag, scale)]


def _trend(lag: Lag, scale: Scale) -> list[str]:
    if lag.gap_change is None or lag.since is None:
        return []
    word = {
        "closes": "The gap closes towards the end",
        "widens": "The gap widens towards the end",
        "unclear": "Whether the gap closes or widens towards the end cannot be told from these seeds",
        None: "One seed does not tell whether the gap closes",
    }[lag.trend]
    change = lag.gap_change_ci95
    interval = "" if change is None else f" ({nats(change[0], sign=True)} to {nats(change[1], sign=True)})"
    said = f"{word}: since step {lag.since:,} it changed by {nats(lag.gap_change, sign=True)}{scale.unit}{interval}."
    if lag.still_learned is not None and lag.still_learned > _STILL:
        said += (
            f" Full fine-tuning learned {100 * lag.still_learned:.0f} % of all that it learned in that time, so the "
            "losses still fall, and a longer run may say otherwise: LoRA lags, and catches up or runs out of room."
        )
    return [said]


def alternative(name: str, lag: Lag) -> str | None:
    """What the lag offers beside full fine-tuning: LoRA for longer, where that is cheaper and no gap widens."""
    if lag.factor is None or lag.seconds is None or lag.seconds >= 1 or lag.trend == "widens" or not lag.extrapolated:
        return None
    return (
        f"{name}, {_times(lag.factor)} as long: by its lag the same loss, for {lag.seconds:.2g} of the time of full "
        "fine-tuning; not measured"
    )


def _times(value: float) -> str:
    return f"{value:.2g} times"


def _between(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f" (at most {high:.2g})" if low is None else f" (at least {low:.2g})"
    return f" ({low:.2g} to {high:.2g})"
