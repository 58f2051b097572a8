"""The shape of `forecast.json`: what a comparison's regret is expected to be, before it is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, model_validator

from lowregret.errors import RecordsError, SpecError
from lowregret.notebook_card import card, number
from lowregret.runs.atomic import read_record
from lowregret.runs.files import FORECAST
from lowregret.runs.record import Record

LEVEL = 0.9
"""Of the intervals of forecasts, how many hold what they are of."""
WIDE = 1.0
"""Of what full fine-tuning learns: an interval as wide as that says nothing."""

MOST_SHARE = 0.5
"""Of a trial's steps: a longer pilot forecasts what is nearly there."""


def require_share(share: float, asked: str, free: str, example: str) -> float:
    """The share of a trial's steps that a pilot takes; SpecError when it is none.

    `asked` is how it was asked for, `free` what asks for no pilots, and `example` for some.
    """
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 < share <= MOST_SHARE:
        raise SpecError(
            f"{asked}: give {free}, or a share of a trial's steps, above 0 and up to {MOST_SHARE:.0%}, such as "
            f"{example}."
        )
    return share


class ForecastedRegret(Record):
    """Of one LoRA against FullFT, each at its own best learning rate, at the end of the run."""

    model_config = ConfigDict(allow_inf_nan=False)

    method: str
    share: float
    """Of what FullFT learns, as expected."""
    share_interval: tuple[float, float]
    """That is to contain the measured share at `level`."""
    regret_nats: float | None = None
    """`share` of what FullFT is expected to learn; None without pilots, which say how much that is."""
    nats_interval: tuple[float, float] | None = None
    """The product of both intervals: of the share, and of what FullFT learns."""
    chance_low: float
    """That the regret is below the tolerance."""
    at_pilot: float | None = None
    """The regret in the pilots, as a share of what FullFT had learned by then."""
    lag: float | None = None
    """Steps of LoRA over those of FullFT for the same loss, in the pilots."""
    far: bool
    """Whether the case is further from the bank than nine of ten of its own cases are from the others: the interval is
    wider."""
    says_nothing: bool = False
    """Whether its interval is too wide to be told as a forecast: then `share` is none."""

    @model_validator(mode="before")
    @classmethod
    def _told_or_not(cls, values: Any) -> Any:
        """By the interval, whatever a record says; the bits a parameter that earlier ones have told nobody anything."""
        if isinstance(values, dict) and "share_interval" in values:
            values = {name: value for name, value in values.items() if name != "bits_per_parameter"}
            try:
                low, high = values["share_interval"]
                return {**values, "says_nothing": bool(high - low > WIDE)}
            except (TypeError, ValueError):  # which its own field will say
                return values
        return values


class Forecast(Record):
    """`forecast.json`."""

    model_config = ConfigDict(allow_inf_nan=False)

    forecasts: tuple[ForecastedRegret, ...]
    level: float = LEVEL
    tolerance: float
    """Share of what FullFT learns below which a regret is low."""
    learned: float | None = None
    """Nats per supervised token that FullFT is expected to learn; None without pilots."""
    learned_interval: tuple[float, float] | None = None
    """That is to contain it at `level`."""
    step: int
    """Steps of the pilots; 0 without."""
    steps: int
    """Of a whole trial."""
    cost: float
    """Steps of the pilots over those of a full comparison, by its usual number of trials."""
    bank: str
    """Which bank, and how many cases of how many comparisons it has."""
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """For a notebook: what is expected of each LoRA."""
        return card(
            f"Forecast from {self.step} of {self.steps} steps",
            (f"shares of the {number(self.learned)} nats per token that full fine-tuning is expected to learn",),
            ("method", "regret", f"in {self.level:.0%} of cases", f"chance to be below {self.tolerance:.1%}"),
            map(_row, self.forecasts),
            (f"By {self.bank}.", *self.notes),
        )

    def of(self, method: str) -> ForecastedRegret | None:
        """Of a LoRA by its name."""
        return next((found for found in self.forecasts if found.method == method), None)


def _row(found: ForecastedRegret) -> tuple[str, ...]:
    """Of a notebook's table: what is no forecast is not shown as one."""
    if found.says_nothing:
        return found.method, "nothing is forecast", "", ""
    low, high = found.share_interval
    return found.method, f"{found.share:+.1%}", f"{low:+.1%} to {high:+.1%}", f"{found.chance_low:.0%}"


def stored_forecast(folder: Path) -> Forecast | None:
    """Of a comparison's folder; None where nobody asked for one. RecordsError when it is damaged."""
    path = folder / FORECAST
    return read_record(Forecast, path) if path.exists() else None


def shown_forecast(folder: Path, say: Callable[[str], None]) -> Forecast | None:
    """The same for who shows it beside what was measured and rests nothing on it: of one that is damaged that is said,
    and there is none."""
    try:
        return stored_forecast(folder)
    except RecordsError as error:
        damage = str(error).partition(" Delete")[0]
        say(f"no forecast is shown: {damage} `lowregret forecast` with the same flags and --out writes it anew.")
        return None


def unsaid(line: str) -> None:
    """Where another has said it."""
