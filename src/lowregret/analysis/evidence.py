"""A study's folder as its claims and figures need it: conditions, methods, best rates, curves. Torch-free.

Only raw records are read (trial.json, metrics.jsonl, examples.json, forgetting.json and timings); what the runner made
of them is found again here, so that a reader need not trust it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lowregret.analysis.comparison import fit_together, paired
from lowregret.analysis.fits import Estimate, exponential, mean, vertex
from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.analysis.start import start_loss
from lowregret.errors import RecordsError, SpecError
from lowregret.runs.atomic import read_json, read_record
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import ExampleLosses, ExampleRewards, RewardMetric, TrialRecord
from lowregret.runs.study import read_examples
from lowregret.spec import FullFT, GroupSpec, Method, build
from lowregret.spec.asked import Asked
from lowregret.spec.question import Question

FULL = "full"
Curve = Mapping[int, float]
"""Step → nats per supervised token, or minus the held-out reward."""


@dataclass(frozen=True)
class Run:
    """One trial."""

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

    def loss(self, step: int | None = None) -> float:
        """The held-out loss after `step`, or at the end; infinite when the trial did not get there."""
        if step is not None:
            return self.test.get(step, math.inf)
        loss = self.record.test_loss
        return loss if self.record.status == "finished" and loss is not None else math.inf

    def results(self) -> ExampleLosses | ExampleRewards:
        """The last evaluation, example by example."""
        return read_examples(self.home / "examples.json")

    def examples(self) -> ExampleLosses:
        """The last evaluation of supervised fine-tuning."""
        return read_record(ExampleLosses, self.home / "examples.json")


@dataclass(frozen=True)
class Best:
    """A method's best learning rate under a condition."""

    learning_rate: float
    """Of the lattice."""
    losses: Mapping[int, float]
    """Seed → held-out loss there."""
    fitted: Mapping[int, float]
    """Seed → log2 of the rate at the bottom of the parabola through the best rate and its neighbours."""
    depth: Mapping[int, float]
    """Seed → the loss at that bottom."""
    bracketed: bool
    level: tuple[float, ...]
    """The rates, this one first, whose losses are equal at the search's seed; of those the lowest is the best."""

    @property
    def loss(self) -> Estimate | None:
        return mean(list(self.losses.values()))

    @property
    def fitted_rate(self) -> Estimate | None:
        """The best rate by the fits; with one seed its interval is what the neighbours allow, a factor of 2."""
        found = exponential(mean(list(self.fitted.values())))
        if found is not None and not found.known and self.bracketed:
            return Estimate(value=found.value, low=self.learning_rate / 2, high=self.learning_rate * 2)
        return found


@dataclass(frozen=True)
class Condition:
    """All trials under one condition."""

    name: str
    spec: GroupSpec
    """Of one of its groups; `methods` are those of all."""
    methods: tuple[Method, ...]
    runs: tuple[Run, ...]
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

    def of(self, method: str, seed: int | None = None) -> list[Run]:
        """The runs of a method, by learning rate and seed."""
        found = [r for r in self.runs if r.record.method == method and (seed is None or r.record.seed == seed)]
        return sorted(found, key=lambda r: (r.record.learning_rate, r.record.seed))

    def best(self, method: str, step: int | None = None) -> Best | None:
        """The best rate at the end, or after `step`; None when no trial got there."""
        searched = {r.record.learning_rate: r.loss(step) for r in self.of(method, SEARCH_SEED)}
        finite = {rate: loss for rate, loss in searched.items() if math.isfinite(loss)}
        if not finite:
            return None
        rate = min(finite, key=lambda r: (finite[r], r))
        seeds = sorted({r.record.seed for r in self.of(method)})
        grid = {(r.record.learning_rate, r.record.seed): r.loss(step) for r in self.of(method)}
        losses = {s: loss for s in seeds if math.isfinite(loss := grid.get((rate, s), math.inf))}
        fitted, depth = {}, {}
        for seed in losses:
            below, above = (grid.get((rate * factor, seed), math.inf) for factor in (0.5, 2.0))
            if math.isfinite(below) and math.isfinite(above):
                place, bottom = vertex(below, losses[seed], above)
                fitted[seed], depth[seed] = math.log2(rate) + place, bottom
        if not fitted:  # beside a rate that diverged the lattice is all there is
            fitted = {SEARCH_SEED: math.log2(rate)} if SEARCH_SEED in losses else {}
        level = tuple(sorted(r for r in finite if finite[r] == finite[rate]))
        return Best(rate, losses, fitted, depth, min(searched) < rate < max(searched), level)

    def at_best(self, method: str) -> list[Run]:
        """The finished runs at a method's best rate, by seed."""
        best = self.best(method)
        if best is None:
            return []
        return [r for r in self.of(method) if r.record.learning_rate == best.learning_rate and math.isfinite(r.loss())]

    def diverged(self, method: str) -> tuple[int, ...]:
        """The seeds that diverged at a method's best rate: what rests on that rate is without them."""
        best = self.best(method)
        at_best = [] if best is None else [r for r in self.of(method) if r.record.learning_rate == best.learning_rate]
        return tuple(r.record.seed for r in at_best if r.record.status == "diverged")

    def difference(self, first: str, second: str) -> Estimate | None:
        """The held-out loss of `first` minus that of `second`, each at its best rate, by paired examples and seeds."""
        pairs = [{run.record.seed: run for run in self.at_best(name)} for name in (first, second)]
        seeds = sorted(pairs[0].keys() & pairs[1].keys())
        if not seeds:
            return None
        losses = [[side[seed].results() for seed in seeds] for side in pairs]
        for seed, *sides in zip(seeds, *losses, strict=True):
            for run, side in zip((pairs[0][seed], pairs[1][seed]), sides, strict=True):
                if not fit_together(side, losses[0][0]):
                    raise RecordsError(
                        f"{run.home}/examples.json: its held-out examples are not those of the others. Delete the "
                        "trial's folder and run the same command again."
                    )
        found = paired(*losses)
        return Estimate(value=found.value, low=found.low, high=found.high, n=len(seeds))


@dataclass(frozen=True)
class Evidence:
    """Everything a claim may use."""

    folder: Path
    question: Question
    command: str
    conditions: Mapping[str, Condition]
    """By name, in the order of the question."""
    timings: tuple[Mapping[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        return str(getattr(self.question, "kind", ""))

    @cached_property
    def noise(self) -> float | None:
        """The noise floor: the standard deviation over seeds of the loss at a best rate, pooled, nats."""
        squares, freedom = 0.0, 0
        for condition in self.conditions.values():
            for method in condition.methods:
                losses = [r.loss() for r in condition.at_best(method.name)]
                if len(losses) > 1:
                    middle = sum(losses) / len(losses)
                    squares += sum((loss - middle) ** 2 for loss in losses)
                    freedom += len(losses) - 1
        return math.sqrt(squares / freedom) if freedom else None

    @property
    def runs(self) -> list[Run]:
        return [run for condition in self.conditions.values() for run in condition.runs]


def read_evidence(folder: Path) -> Evidence:
    """Read a study's folder; RecordsError names the file that is missing or damaged, and the remedy."""
    path = folder / "study.json"
    head = read_json(path)
    if not isinstance(head, dict) or not isinstance(head.get("question"), dict):
        raise RecordsError(f"{path}: no field 'question'. Name a folder that `lowregret study` wrote.")
    try:
        question = build(Asked, {"question": head["question"]}, source=str(path)).question
    except SpecError as error:
        raise RecordsError(f"{error}\nName a folder that this version of `lowregret study` wrote.") from error
    groups = question.groups()
    conditions = {}
    for name in dict.fromkeys(group.condition for group in groups):
        conditions[name] = _condition(folder, name, [group for group in groups if group.condition == name])
    timings = tuple(read_json(file) for file in sorted((folder / "timings").glob("*.json")))
    return Evidence(folder, question, str(head.get("command", "")), conditions, timings)


def _condition(folder: Path, name: str, groups: Sequence[GroupSpec]) -> Condition:
    methods: list[Method] = []
    runs: list[Run] = []
    sessions: list[Mapping[str, Any]] = []
    base: dict[str, Any] = {}
    for group in groups:
        home = folder / "groups" / group.key
        if not (home / "base.json").exists():
            raise RecordsError(f"{home}: not trained yet. Run the same `lowregret study` again to finish it.")
        base |= read_json(home / "base.json")
        start = start_loss(home)
        if start is not None:
            base["start"] = start
        if (home / "environment.json").exists():
            sessions += read_json(home / "environment.json")["sessions"]
        asked = {method.name for method in group.methods}
        for file in sorted(home.glob("trials/*/trial.json")):
            record = read_record(TrialRecord, file)
            # a folder may hold more than the question asked last
            rates = group.learning_rates
            fits = record.method in asked and (rates == "search" or record.learning_rate in rates)
            if fits and record.seed < group.seeds and record.status != "running":
                runs.append(_run(record, file.parent))
        methods += group.methods
    methods.sort(key=lambda method: isinstance(method, FullFT))
    return Condition(
        name=name,
        spec=groups[0],
        methods=tuple(methods),
        runs=tuple(runs),
        base_nll=base.get("start", math.inf),
        hidden_size=base["hidden_size"],
        base_forgetting=base.get("forgetting_nll"),
        fact_bits=base.get("fact_bits"),
        sessions=tuple(sessions),
    )


def _run(record: TrialRecord, home: Path) -> Run:
    metrics = read_metrics(home / "metrics.jsonl")
    forgetting = home / "forgetting.json"
    return Run(
        record=record,
        home=home,
        test={m.step: loss for m in metrics if (loss := m.test_loss) is not None},
        train={m.step: m.train_nll for m in metrics if m.train_nll is not None},
        forgetting_nll=read_json(forgetting)["test_nll"] if forgetting.exists() else None,
        samples={m.step: m.rl for m in metrics if m.rl is not None},
    )
