"""Who watches trials: the live table, plain lines, a tracker, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import TrialSpec


class Observer(Protocol):
    """Who watches a study: the live table, plain lines, or nobody."""

    def say(self, line: str) -> None:
        """Something found or filled in before the first trial."""

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        """`done` trials have ended; `expected` is a guess at how many there will be in all."""

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        """A step, of so many, of one of the trials in training."""

    def trial_ended(self, record: TrialRecord) -> None:
        """One of the trials in training has its final record."""

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None:
        """One of the trials in training has come as far as pilots go, with this held-out loss or minus the reward."""


class Silent:
    """Nobody watches."""

    def say(self, line: str) -> None: ...
    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None: ...
    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...
    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None: ...


class Lines:
    """An observer that says one line a trial."""

    def __init__(self, label: str, say: Callable[[str], None]) -> None:
        self._label, self._say = label, say
        self._expected = 0
        self._done = 0

    def say(self, line: str) -> None:
        """What is found in the data is the same in every group, and not worth a line each."""

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        self._done, self._expected = done, expected

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None:
        self._done += 1
        found = record.test_nll if record.test_reward is None else record.test_reward
        loss = "" if found is None else f" {found:.4f}"
        self._say(
            f"{self._label} {self._done}/{max(self._expected, self._done)}: {record.method} at "
            f"{record.learning_rate:.3g}, seed {record.seed}: {record.status}{loss}, {record.seconds:.1f} s"
        )

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None: ...
