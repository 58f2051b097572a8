"""Who watches trials: the live table, plain lines, a tracker, or nobody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from lowregret.plan.price import Price
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.standing import GroupStanding
from lowregret.spec import TrialSpec


class Observer(Protocol):
    """Who watches a study: the live table, plain lines, or nobody."""

    def say(self, line: str) -> None:
        """Something found or filled in before the first trial."""

    def priced(self, price: Price) -> None:
        """What all that is still to be trained takes, before the first trial. What is raised here ends the job."""

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        """`done` trials have ended; `expected` is a guess at how many there will be in all."""

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        """A step, of so many, of one of the trials in training."""

    def trial_ended(self, record: TrialRecord) -> None:
        """One of the trials in training has its final record."""

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None:
        """One of the trials in training has come as far as pilots go, with this held-out loss or minus the reward."""


class StudyObserver(Observer, Protocol):
    """Who watches a study: of its groups one after another, or of those that others train."""

    def group_started(self, label: str) -> None:
        """All that follows is of this group, until the next one; those before it are done."""

    def groups(self, found: Sequence[GroupStanding]) -> None:
        """How far those are that are being trained."""


class Relay(ABC):
    """Tells another observer everything; who derives from it hears some of it, too."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner

    def say(self, line: str) -> None:
        self._inner.say(line)

    def priced(self, price: Price) -> None:
        self._inner.priced(price)

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        self._inner.trial_started(trial, done, expected)

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        self._inner.step(trial, steps, metric)
        self.stepped(trial, metric)

    def trial_ended(self, record: TrialRecord) -> None:
        self._inner.trial_ended(record)
        self.ended(record)

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None:
        self._inner.trial_paused(record, step, loss)

    @abstractmethod
    def stepped(self, trial: TrialSpec, metric: Metric) -> None:
        """After the other has heard of a step."""

    @abstractmethod
    def ended(self, record: TrialRecord) -> None:
        """After the other has heard of a trial's end."""


class Silent:
    """Nobody watches."""

    def say(self, line: str) -> None: ...
    def priced(self, price: Price) -> None: ...
    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None: ...
    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...
    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None: ...
    def group_started(self, label: str) -> None: ...
    def groups(self, found: Sequence[GroupStanding]) -> None: ...


def ended_line(label: str, done: int, expected: int, record: TrialRecord) -> str:
    """What to say of a trial that has ended, of a group with so many."""
    found = record.test_nll if record.test_reward is None else record.test_reward
    loss = "" if found is None else f" {found:.4f}"
    problem = "" if record.error is None or record.status != "failed" else f": {record.error}"
    return (
        f"{label} {done}/{max(expected, done)}: {record.method} at {record.learning_rate:.3g}, seed {record.seed}: "
        f"{record.status}{loss}, {record.seconds:.1f} s{problem}"
    )
