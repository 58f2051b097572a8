"""The trials under one condition of a study: curves, best learning rates, paired differences. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowregret.analysis.comparison import fit_together, paired
from lowregret.analysis.fits import Estimate, mean
from lowregret.analysis.learning_rate import SEARCH_SEED, BestRate, as_of, best_rate, bowl_between, search_loss
from lowregret.analysis.place import Place, mean_factor
from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_record
from lowregret.runs.files import EXAMPLES
from lowregret.runs.records import ExampleLosses, ExampleRewards, RewardMetric, TrialRecord
from lowregret.runs.study import read_examples
from lowregret.spec import GroupSpec, Method

FULL = "full"
Curve = Mapping[int, float]
"""Step → nats per supervised token, or minus the held-out reward."""


@dataclass(frozen=True)
class Trial:
    """One trial: its record and its curves."""

    record: TrialRecord
    home: Path
    test: Curve
    """Held-out loss."""
    train: Curve
    """Training loss before the step's update."""
    forgetting_nll: float | None
    samples: Mapping[int, RewardMetric] = field(default_factory=dict)
    """With reinforcement learning: step → what was recorded of its samples."""

    @property
    def log_rate(self) -> float:
        """log2 of the learning rate."""
        return math.log2(self.record.learning_rate)

    def at(self, step: int | None) -> TrialRecord:
        """Its record, or what that would say if the trial had been of `step` steps."""
        return self.record if step is None else as_of(self.record, step, self.test)

    def loss(self) -> float:
        """The held-out loss at the end; infinite when the trial did not get there."""
        loss = self.record.test_loss
        return loss if self.record.status == "finished" and loss is not None else math.inf

    def results(self) -> ExampleLosses | ExampleRewards:
        """The last evaluation, example by example."""
        return read_examples(self.home / EXAMPLES)

    def examples(self) -> ExampleLosses:
        """The last evaluation of supervised fine-tuning."""
        return read_record(ExampleLosses, self.home / EXAMPLES)


@dataclass(frozen=True)
class BestOverSeeds:
    """A method's best learning rate under a condition."""

    rate: BestRate
    """What the search's seed says of it."""
    losses: Mapping[int, float]
    """Seed → held-out loss there."""
    fitted: Mapping[int, Place]
    """Seed → log2 of the rate at the bottom of the bowl around the best rate."""
    bottoms: Mapping[int, float]
    """Seed → the loss at that bottom, where there is a parabola."""

    @property
    def learning_rate(self) -> float:
        """Of those tried."""
        assert self.rate.learning_rate is not None  # else there is no best at all
        return self.rate.learning_rate

    @property
    def bracketed(self) -> bool:
        """Whether worse losses lie on both sides."""
        return self.rate.bracketed

    @property
    def level(self) -> tuple[float, ...]:
        """The rates, ascending, whose losses are equal at the search's seed; this one is in their middle."""
        return self.rate.level

    @property
    def loss(self) -> Estimate | None:
        return mean(list(self.losses.values()))

    @property
    def fitted_rate(self) -> Estimate | None:
        """The best rate by the fits; with one seed its interval is what the neighbours allow."""
        found = mean_factor(list(self.fitted.values()))
        if found is not None and not found.known and self.bracketed and self.rate.beside is not None:
            low, high = self.rate.beside
            return Estimate(value=found.value, low=low, high=high)
        return found


@dataclass(frozen=True)
class Condition:
    """All trials under one condition."""

    name: str
    spec: GroupSpec
    """Of one of its groups; `methods` are those of all."""
    methods: tuple[Method, ...]
    trials: tuple[Trial, ...]
    base_nll: float
    """Held-out loss before training; with reinforcement learning, minus the reward."""
    hidden_size: int
    base_forgetting: float | None = None
    fact_bits: float | None = None
    """Bits of all facts of the data, where these are known."""
    sessions: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def steps(self) -> int:
        return self.spec.steps or 0

    @property
    def rewarded(self) -> bool:
        """Whether trials are judged by a reward."""
        return self.spec.objective.kind == "rl"

    def of(self, method: str, seed: int | None = None) -> list[Trial]:
        """The trials of a method, by learning rate and seed."""
        found = [t for t in self.trials if t.record.method == method and (seed is None or t.record.seed == seed)]
        return sorted(found, key=lambda t: (t.record.learning_rate, t.record.seed))

    def best(self, method: str, step: int | None = None) -> BestOverSeeds | None:
        """The best rate at the end, or after `step`; None when no trial got there."""
        records = [trial.at(step) for trial in self.of(method)]
        found = best_rate(records, self.base_nll)
        rate = found.learning_rate
        if rate is None:
            return None
        losses = {
            record.seed: record.test_loss
            for record in records
            if record.learning_rate == rate and record.status == "finished" and record.test_loss is not None
        }
        fitted, bottoms = {}, {}
        for seed, loss in losses.items():
            own = {r.learning_rate: tried for r in records if r.seed == seed and (tried := search_loss(r)) is not None}
            bowl = None if found.beside is None else bowl_between(own, rate, found.beside, self.base_nll)
            if bowl is not None:
                fitted[seed] = Place(math.log2(rate)) + bowl.place()
                if math.isfinite(bowl.below) and math.isfinite(bowl.above):
                    bottoms[seed] = loss - bowl.bottom().depth
        if not fitted and SEARCH_SEED in losses:  # nothing was tried on one side: the lattice is all there is
            fitted = {SEARCH_SEED: Place(math.log2(rate))}
        return BestOverSeeds(found, losses, fitted, bottoms)

    def at_best(self, method: str) -> list[Trial]:
        """The finished trials at a method's best rate, by seed."""
        best = self.best(method)
        if best is None:
            return []
        return [t for t in self.of(method) if t.record.learning_rate == best.learning_rate and math.isfinite(t.loss())]

    def diverged(self, method: str) -> tuple[int, ...]:
        """The seeds that diverged at a method's best rate: what rests on that rate is without them."""
        best = self.best(method)
        at_best = [] if best is None else [t for t in self.of(method) if t.record.learning_rate == best.learning_rate]
        return tuple(t.record.seed for t in at_best if t.record.status == "diverged")

    def difference(self, first: str, second: str) -> Estimate | None:
        """Held-out loss of `first` minus that of `second`, each at the bottom of its bowl, with a verdict's interval.

        Where rates are given and not searched for, there is no bowl: the losses are compared as they are.
        """
        pairs = [{trial.record.seed: trial for trial in self.at_best(name)} for name in (first, second)]
        seeds = sorted(pairs[0].keys() & pairs[1].keys())
        if not seeds:
            return None
        losses = [[side[seed].results() for seed in seeds] for side in pairs]
        for seed, *sides in zip(seeds, *losses, strict=True):
            for trial, side in zip((pairs[0][seed], pairs[1][seed]), sides, strict=True):
                if not fit_together(side, losses[0][0]):
                    raise RecordsError(
                        f"{trial.home / EXAMPLES}: its held-out examples are not those of the others. Delete the "
                        "trial's folder and run the same command again."
                    )
        searched, bests = self.spec.learning_rates == "search", (self.best(first), self.best(second))
        found = paired(losses[0], losses[1], [b.rate.bowl if b is not None and searched else None for b in bests])
        low, high = found.bounds or (None, None)
        return Estimate(value=found.value, low=low, high=high, n=len(seeds), freedom=found.counted_freedom)

    def learned_by_full(self) -> float | None:
        """Nats by which FullFT at its best rate lowers the held-out loss; None when it does not."""
        best = self.best(FULL)
        if best is None or best.loss is None or self.base_nll <= best.loss.value:
            return None
        return self.base_nll - best.loss.value
