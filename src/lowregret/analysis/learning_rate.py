"""Which learning rate won a method's search, and whether worse losses lie on both sides of it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lowregret.analysis.bowl import Bowl
from lowregret.runs.records import TrialRecord

SEARCH_SEED = 0
"""The search compares learning rates at this one seed; the other seeds run at the winner only."""


@dataclass(frozen=True)
class BestRate:
    """The winner of one method's search."""

    learning_rate: float | None
    """None when no trial finished."""
    bracketed: bool
    """True only when a strictly worse loss lies on both sides."""
    test_loss: float | None
    """At the winner, seed 0: held-out nats per supervised token, or minus the held-out reward."""
    lower: float | None
    """The nearest worse rate below the winner; None when there is none."""
    upper: float | None
    """The nearest worse rate above the winner; None when there is none."""
    bowl: Bowl | None = field(default=None, compare=False)
    """Around the winner, of the search's seed; None without a rate tried on both sides."""
    beside: tuple[float, float] | None = field(default=None, compare=False)
    """The nearest rates tried below and above the winner, whatever their losses: the bowl's sides."""
    level: tuple[float, ...] = field(default=(), compare=False)
    """The rates, ascending, that are as good as the winner; it is in their middle."""


def search_loss(record: TrialRecord) -> float | None:
    """The loss with which a trial takes part in the search; None when it does not.

    It is in nats per supervised token, or minus the held-out reward, on the held-out examples that all trials share.

    A diverged trial is worse than anything. So is a pruned one, whose last evaluation belongs to fewer steps than the
    others' and must not be compared with theirs: it was stopped because it was clearly worse. A failed trial says
    nothing about its learning rate, a running one nothing yet, and nor does a pilot that was put aside.
    """
    if record.status in ("failed", "running") or record.put_aside:
        return None
    loss = record.shared_loss
    return loss if record.status == "finished" and loss is not None and math.isfinite(loss) else math.inf


def at_step(record: TrialRecord, step: int, loss: float) -> TrialRecord:
    """A trial as if it had been of so many steps, after which its held-out loss was `loss`, or minus its reward."""
    facts = {"status": "finished", "steps": step, "test_nll": loss, "search_nll": None, "test_reward": None}
    return record.model_copy(update=facts)


def as_of(record: TrialRecord, step: int, curve: Mapping[int, float]) -> TrialRecord:
    """A trial as a search after `step` knows it, by its held-out losses, or minus its rewards.

    One that has none there did not get so far, and is worse than any that did. What says nothing of its learning rate
    at the end says nothing before.
    """
    if search_loss(record) is None:
        return record
    loss = curve.get(step, math.inf)
    return at_step(record, step, loss) if math.isfinite(loss) else record.model_copy(update={"status": "diverged"})


def best_rate(records: Sequence[TrialRecord], start: float | None = None) -> BestRate:
    """The rate with the lowest held-out loss among one method's trials at the search's seed; other seeds take no part.

    Equal losses count as one plateau: the rate in its middle wins (of two, the lower), and the bracket's sides are the
    nearest rates outside the whole plateau, so that a tie is never taken for a worse loss. The minimum over noisy
    losses is biased downwards a little; `regret.judge` says what that does to the comparison. `start` is the base's
    loss, which says what has left the bowl (`Bowl.around`).
    """
    searched = [record for record in records if record.seed == SEARCH_SEED]
    if len({record.method for record in searched}) > 1:
        raise ValueError("best_rate compares the trials of one method, not of several")
    losses = {record.learning_rate: loss for record in searched if (loss := search_loss(record)) is not None}
    lowest = min(losses.values(), default=math.inf)
    if math.isinf(lowest):
        return BestRate(None, False, None, None, None)
    tied = plateau(losses)
    best = middle(tied)
    lower = max((rate for rate in losses if rate < tied[0]), default=None)
    upper = min((rate for rate in losses if rate > tied[-1]), default=None)
    sides = _beside(losses, best)
    bowl = None if sides is None else bowl_between(losses, best, sides, start)
    return BestRate(best, lower is not None and upper is not None, lowest, lower, upper, bowl, sides, tied)


Place = TypeVar("Place", int, float)
"""A rate, or its exponent."""


def plateau(losses: Mapping[Place, float]) -> tuple[Place, ...]:
    """The rates of the lowest loss, ascending; () without any."""
    lowest = min(losses.values(), default=math.inf)
    return tuple(sorted(rate for rate, loss in losses.items() if loss == lowest))


def middle(tied: Sequence[Place]) -> Place:
    """Of ascending rates, by rank; of two the lower."""
    return tied[(len(tied) - 1) // 2]


def _beside(rates: Collection[float], best: float) -> tuple[float, float] | None:
    below = max((rate for rate in rates if rate < best), default=None)
    above = min((rate for rate in rates if rate > best), default=None)
    return None if below is None or above is None else (below, above)


def bowl_between(
    losses: Mapping[float, float], best: float, sides: tuple[float, float], start: float | None
) -> Bowl | None:
    """Of one seed, from its losses by learning rate; None where one of the three was not tried."""
    below, above = sides
    if not {below, best, above} <= losses.keys():
        return None
    to_below, to_above = math.log2(best / below), math.log2(above / best)
    return Bowl.around(losses[best], losses[below], losses[above], to_below, to_above, start=start)
