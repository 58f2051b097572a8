"""What a question of the post is made of: groups of trials, statements with what measures them, and its evidence.

A question says which groups of trials answer it; the runner trains them, `judge` rules on its claims, and its own
figures draw what was found. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from lowregret.analysis.condition import Condition, Trial
from lowregret.analysis.fits import Estimate
from lowregret.spec import Spec
from lowregret.spec.data import DataSpec
from lowregret.spec.method import FullFT, LoRA, Method
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count, TrainingSpec


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice")
    return values


Once = AfterValidator(_once)
"""Of a list: nothing is in it twice, which would be trained once and counted twice."""
Rank = Annotated[int, Field(ge=1, le=65536)]
Ranks = Annotated[tuple[Rank, ...], Field(min_length=1), Once]
Unit = Literal["ratio", "share", "nats", "bits", "number"]
FACTS = "builtin:biographies"


def facts(options: str) -> DataSpec:
    return DataSpec(train=f"{FACTS}:{options}", max_length=128)


class Question(TrainingSpec):
    """What all questions have in common. A study's length is given in steps, never in epochs.

    Every default is the study on the bundled base.
    """

    TITLE: ClassVar[str]
    """Its heading on the page."""
    OBJECTIVE: ClassVar[str] = "sft"
    """The kind of objective that its claims are about."""
    QUICK: ClassVar[dict[str, Any]] = {}
    """Fields that `--quick` sets."""
    IN_ALL: ClassVar[bool] = True
    """Whether `study all` asks it."""
    OWN: ClassVar[tuple[str, ...]] = ()
    """Flags of `study all` that are not for it, because it needs bases or data of its own: their names as fields."""

    model: str = "tiny"
    data: DataSpec = facts("size=128,wordings=6,test_size=128")
    steps: Count = 400
    """Optimizer steps of a trial."""
    evals: Count = 10
    """Held-out evaluations per trial, evenly spaced in the logarithm of the step from `first_eval` on."""
    first_eval: Count = 2
    """The step of the first evaluation."""
    seeds: Count = 3
    """Trials at the rates that a claim rests on."""
    prune: float | None = Field(default=0.25, gt=0)
    """Stop a search trial in the second half of its run when its held-out loss exceeds that of the method's best trial
    at the same step by more than this share."""

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is not None:
            raise ValueError("epochs: the length of a study's trials is given in steps; name `steps`")
        return values

    @model_validator(mode="after")
    def _about_its_objective(self) -> Question:
        if self.objective.kind != self.OBJECTIVE:
            other = "rewards are what the question 'rl' is about" if self.OBJECTIVE == "sft" else "name a task"
            raise ValueError(f"objective: must be {self.OBJECTIVE!r} here, not {self.objective.kind!r}; {other}")
        return self

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases that it shares with other questions, for the top of a page; none when all are its own."""
        return (self.model,)

    def setting(self) -> dict[str, str]:
        """What all its trials have in common, for a reader: its name → in words."""
        run = f"{self.length()}, {self.seeds} seeds"
        return {"Base": self.model, "Data": self.data.train, "Each run": run}

    def length(self) -> str:
        """How long a trial is, in words."""
        return f"{self.steps} steps, batch {self.batch_size}"

    def groups(self) -> tuple[GroupSpec, ...]:
        """The groups of trials that answer the question, those that others start from first."""
        raise NotImplementedError

    def group(self, condition: str, methods: tuple[Method, ...], **changed: Any) -> GroupSpec:
        """A group with everything that the question does not vary."""
        fields = {name: getattr(self, name) for name in TrainingSpec.model_fields}
        fields |= {"seeds": self.seeds, "prune": self.prune, "condition": condition, "methods": methods} | changed
        if "evals" not in changed:
            fields["evals"] = log_spaced(self.first_eval, fields["steps"], self.evals)
        return GroupSpec(**fields)

    def pair(self, condition: str, loras: tuple[Method, ...], **changed: Any) -> tuple[GroupSpec, ...]:
        """LoRAs, and FullFT under the same condition."""
        return self.group(condition, loras, **changed), self.group(condition, (FullFT(),), **changed)


def log_spaced(first: int, last: int, count: int) -> tuple[int, ...]:
    """At most `count` steps from `first` to `last`, evenly spaced in the logarithm."""
    first = min(first, last)
    if count == 1 or first == last:
        return (last,)
    ratio = math.log(last / first) / (count - 1)
    return tuple(sorted({round(first * math.exp(ratio * index)) for index in range(count)} | {last}))


def loras(ranks: tuple[int, ...]) -> tuple[Method, ...]:
    return tuple(LoRA(rank=rank) for rank in ranks)


def sized(data: DataSpec, size: int) -> DataSpec:
    """So much of the data: by the `{size}` in its name, or its first rows."""
    if "{size}" in data.train:
        return data.model_copy(update={"train": data.train.replace("{size}", str(size))})
    return data.model_copy(update={"max_train": size})


def plain(model: str) -> str:
    """A model's name as a part of a folder's."""
    last = model.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last)


# --- claims ---------------------------------------------------------------------------------------------------------


class Statement(Spec):
    """A claim before its evidence; it depends on the question alone, and `study.json` keeps it from the start."""

    key: str
    number: str
    """Section of docs/science.md."""
    sentence: str
    """What the post, or the work cited there, says."""
    statistic: str
    """What is measured here."""
    unit: Unit
    low: float | None = None
    high: float | None = None
    """The claim holds when the whole interval of the statistic lies within these bounds, and does not hold when it lies
    wholly outside. A bound of zero is itself outside."""

    @property
    def threshold(self) -> str:
        """The bounds in words."""
        if self.low is None:
            return f"at most {_said(self.high, self.unit)}" if self.high else "below 0"
        if self.high is None:
            return f"at least {_said(self.low, self.unit)}" if self.low else "above 0"
        return f"{_said(self.low, self.unit)} to {_said(self.high, self.unit)}"


def _said(value: float | None, unit: Unit) -> str:
    if value is None:
        return "anything"
    if unit == "share":
        return f"{100 * value:g} %"
    return f"{value:g}" + {"ratio": "×", "nats": " nats", "bits": " bits"}.get(unit, "")


@dataclass(frozen=True)
class Measure:
    """What was measured of a statement's statistic."""

    estimate: Estimate | None
    """None when it could not be."""
    note: str = ""
    details: Mapping[str, float | None] = field(default_factory=dict)
    """The parts of the statistic, such as its value at each size."""


Q = TypeVar("Q", bound=Question)


@dataclass(frozen=True)
class Evidence(Generic[Q]):
    """A study's folder as claims and figures need it (`evidence.read_evidence` reads one)."""

    folder: Path
    question: Q
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
                losses = [trial.loss() for trial in condition.at_best(method.name)]
                if len(losses) > 1:
                    middle = sum(losses) / len(losses)
                    squares += sum((loss - middle) ** 2 for loss in losses)
                    freedom += len(losses) - 1
        return math.sqrt(squares / freedom) if freedom else None

    @property
    def trials(self) -> list[Trial]:
        return [trial for condition in self.conditions.values() for trial in condition.trials]


@dataclass(frozen=True)
class Stated(Generic[Q]):
    """A claim as its question's folder states it: the statement beside what measures its statistic."""

    statement: Statement
    measure: Callable[[Evidence[Q]], Measure]
