"""The shape of `decision.json`: how a comparison that stops when it is decided came to its verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from lowregret.runs.record import Record


class Look(Record):
    """One time at which the verdict could have been settled."""

    model_config = ConfigDict(allow_inf_nan=False)

    seeds: int
    """Of both methods, by which it judged."""
    method: str
    """The LoRA."""
    error: float = Field(ge=0, lt=1)
    """Of the whole verdict's, what this look was given: its interval holds at 1 − error."""
    regret: float | None
    """Nats per supervised token."""
    interval: tuple[float, float] | None
    """Of the regret, at that level; None where nothing could be known of it."""
    ruling: Literal["low_regret", "regret", "inconclusive"]
    """Settled when it is not inconclusive."""

    @property
    def ruling_error(self) -> float:
        """At which its records are ruled on once more, to be kept or verified. None where it settled nothing: trials
        that came since, or a search that was not complete, would else settle what no look has."""
        return 0.0 if self.ruling == "inconclusive" else self.error


class LeftOut(Record):
    """A method that could not change the decision, and was trained no further."""

    method: str
    reason: str


class Decision(Record):
    """`decision.json`, and in `verdict.json` how it was decided."""

    model_config = ConfigDict(allow_inf_nan=False)

    error: float
    """Of a settled verdict, over all looks together."""
    question: str = ""
    """Methods, tolerance and held-out examples, by digest: of other ones the looks say nothing."""
    looks: tuple[Look, ...] = ()
    rungs: tuple[int, ...] = ()
    """Steps after which trials are compared, the last of them those of a whole trial."""
    left_out: tuple[LeftOut, ...] = ()
    bound: Literal["above", "below"] | None = None
    """The regret is at most (`above`), or at least (`below`), what was measured: the learning rate of the method whose
    better rates could not change the decision was not searched for to the end."""
    steps: int = 0
    """Taken by all trials."""
    usual_steps: int = 0
    """Of a full comparison, by the usual number of trials of a search."""

    @property
    def spent(self) -> float:
        """The error that the looks so far were given."""
        return sum(look.error for look in self.looks)

    @property
    def settled(self) -> bool:
        """Whether its last look decided."""
        return bool(self.looks) and self.looks[-1].ruling != "inconclusive"
