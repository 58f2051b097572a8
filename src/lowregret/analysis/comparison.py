"""What the records say about each method on its own, and the paired comparison of two of them. Torch-free."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lowregret.analysis.bowl import Bowl
from lowregret.analysis.gains import seconds_alone
from lowregret.analysis.interval import Interval, paired_difference
from lowregret.analysis.learning_rate import BestRate, best_rate
from lowregret.errors import RecordsError
from lowregret.runs.files import EXAMPLES, TRIALS
from lowregret.runs.records import PILOT, ExampleLosses, ExampleRewards, TrialRecord
from lowregret.runs.verdict import MethodResult, Ruling
from lowregret.spec import FullFT, LoRA

Examples = ExampleLosses | ExampleRewards


@dataclass(frozen=True)
class Measured:
    """One method's trials, and those at its best learning rate."""

    method: FullFT | LoRA
    rate: BestRate
    finished: Mapping[int, TrialRecord]
    """Seed → the finished trial at the best learning rate."""
    diverged_seeds: tuple[int, ...]
    """Seeds that diverged at the best learning rate."""
    statuses: Mapping[str, int]
    """Status → how many of the method's trials have it; those that are pilots alone by themselves."""
    trainable_parameters: int
    stopped: int = 0
    """How many of them ended because somebody asked for it."""

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def test_loss(self) -> float | None:
        """Mean over the finished seeds at the best learning rate: nats per supervised token, or minus the reward."""
        losses = [record.test_loss for record in self.finished.values() if record.test_loss is not None]
        return statistics.fmean(losses) if losses else None

    @property
    def bottom(self) -> float | None:
        """The loss at the bottom of the parabola through the best rate tried and its neighbours, where there is one."""
        if self.test_loss is None or self.rate.bowl is None:
            return self.test_loss
        return self.test_loss - self.rate.bowl.bottom().depth

    @property
    def rewarded(self) -> bool:
        """Whether its trials were judged by a reward."""
        return any(record.test_reward is not None for record in self.finished.values())

    @property
    def seconds_alone(self) -> float | None:
        """Wall time of one trial by itself, median over the seeds at the best learning rate."""
        times = [seconds_alone(record) for record in self.finished.values()]
        return statistics.median(times) if times else None

    @property
    def steps(self) -> int:
        """Optimizer steps of one trial at the best learning rate."""
        return max((record.steps for record in self.finished.values()), default=0)

    @property
    def test_tokens(self) -> int:
        return max((record.test_tokens for record in self.finished.values()), default=0)

    def result(self, interval: Interval | None = None, ruling: Ruling | None = None) -> MethodResult:
        """The record of this method; `interval` is its regret against FullFT, for a LoRA, and what that says."""
        trials = list(self.finished.values())
        loss, regret = self.test_loss, None if interval is None else interval.value
        return MethodResult(
            name=self.name,
            best_learning_rate=self.rate.learning_rate,
            bracketed=self.rate.bracketed,
            test_nll=None if self.rewarded else loss,
            test_reward=0.0 - loss if self.rewarded and loss is not None else None,
            seeds=len(trials),
            trials=sum(self.statuses.values()),
            tokens=max((record.tokens for record in trials), default=0),
            seconds=statistics.median(record.seconds for record in trials) if trials else 0.0,
            alone_seconds=self.seconds_alone,
            peak_memory_bytes=max((record.peak_memory_bytes for record in trials), default=0),
            trainable_parameters=self.trainable_parameters,
            checkpoint_bytes=max((record.checkpoint_bytes for record in trials), default=0),
            pack_size=max((record.pack_size for record in trials), default=1),
            regret_nats=None if self.rewarded else regret,
            regret_reward=regret if self.rewarded else None,
            ci95=None if interval is None else interval.bounds,
            ruling=ruling,
            depth=None if self.rate.bowl is None else self.rate.bowl.bottom().depth,
        )


def measure(method: FullFT | LoRA, records: Sequence[TrialRecord], start: float | None = None) -> Measured:
    """Gather one method's trials out of all of a study's; `start` is the base's loss, where it is known."""
    name = method.name
    own = [record for record in records if record.method == name]
    rate = best_rate(own, start)
    at_best = [record for record in own if record.learning_rate == rate.learning_rate]
    return Measured(
        method=method,
        rate=rate,
        finished={r.seed: r for r in at_best if r.status == "finished" and r.test_loss is not None},
        diverged_seeds=tuple(sorted(r.seed for r in at_best if r.status == "diverged")),
        statuses=Counter(PILOT if record.pilot else record.status for record in own),
        trainable_parameters=max((record.trainable_parameters for record in own), default=0),
        stopped=sum(record.stopped for record in own),
    )


def regret_interval(lora: Measured, full: Measured, losses: Mapping[str, Examples]) -> Interval | None:
    """The paired difference of losses, LoRA − FullFT, over the seeds that both finished; None when there is none.

    Each is taken at the bottom of its bowl of learning rates. Of rewards it is the difference FullFT − LoRA, and every
    problem counts alike. Of two LoRAs, `full` is the other.

    Args:
        losses: trial id → its per-example losses, or rewards, on the held-out set. A trial without them takes no part.

    Raises:
        RecordsError: two trials were judged on different held-out examples.
    """
    seeds = [
        seed
        for seed in sorted(lora.finished.keys() & full.finished.keys())
        if lora.finished[seed].id in losses and full.finished[seed].id in losses
    ]
    if not seeds:
        return None
    rows = [[losses[side.finished[seed].id] for seed in seeds] for side in (lora, full)]
    _same_examples([side.finished[seed].id for side in (lora, full) for seed in seeds], [*rows[0], *rows[1]])
    return paired(rows[0], rows[1], (lora.rate.bowl, full.rate.bowl))


def paired(
    first: Sequence[Examples], second: Sequence[Examples], bowls: Sequence[Bowl | None] = (None, None)
) -> Interval:
    """Loss of `first` minus that of `second`, an entry a seed, on the same held-out examples; `bowls` are theirs."""
    ours, theirs = (np.array([row.loss_sums for row in side], dtype=np.float64) for side in (first, second))
    return paired_difference(ours, theirs, np.array(first[0].weights, dtype=np.int64), bowls)


def fit_together(one: Examples, other: Examples) -> bool:
    """Whether two trials were judged on the same held-out examples, as far as their numbers can tell."""
    return type(one) is type(other) and one.weights == other.weights and len(one.loss_sums) == len(one.weights)


def _same_examples(names: Sequence[str], rows: Sequence[Examples]) -> None:
    for name, row in zip(names, rows, strict=True):
        if not fit_together(row, rows[0]):
            raise RecordsError(
                f"{TRIALS}/{name}/{EXAMPLES}: its held-out examples are not those of {TRIALS}/{names[0]}/{EXAMPLES}. "
                "Delete the folder of the trial that is wrong and run the same command again."
            )
        if not np.isfinite(row.loss_sums).all():
            field = "nll_sums" if isinstance(row, ExampleLosses) else "rewards"
            raise RecordsError(
                f"{TRIALS}/{name}/{EXAMPLES}: field {field!r} holds a number that is not finite. "
                "Delete the trial's folder and run the same command again."
            )
