"""A question of the post as a spec: which groups of trials answer it. Torch-free.

The runner trains them, `judge` rules on the claims of the question's folder, and its figures draw what was found.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from lowregret import limits
from lowregret.spec.data import DataSpec
from lowregret.spec.method import DEFAULT_TARGETS, MOST_RANK, FullFT, LoRA, Method, Targets
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count, TrainingSpec


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice")
    return values


Once = AfterValidator(_once)
"""Of a list: nothing is in it twice, which would be trained once and counted twice."""
Rank = Annotated[int, Field(ge=1, le=MOST_RANK)]
Ranks = Annotated[tuple[Rank, ...], Field(min_length=1), Once]
Batch = Annotated[int, Field(ge=1, le=limits.ROWS)]
Evaluations = Annotated[int, Field(ge=1, le=limits.LISTED)]
"""Each becomes a step in a list."""
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
    evals: Evaluations = 10
    """Held-out evaluations per trial, evenly spaced in the logarithm of the step from the first one on."""
    first_eval: Count = 2
    """The step of the first evaluation."""
    seeds: Annotated[int, Field(ge=1, le=limits.REPEATS)] = 3
    """Trials at the rates that a claim rests on."""
    prune: float | None = Field(default=0.25, gt=0, le=limits.FACTOR)
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
    def name(self) -> str:
        """Its kind, as recipes and records have it; its folder is named alike."""
        found: str = self.__dict__["kind"]
        return found

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


class PlacedQuestion(Question):
    """A question whose LoRAs are all on the same matrices."""

    targets: Targets = DEFAULT_TARGETS
    """The matrices that carry its LoRAs, as `targets` of `compare`."""


def log_spaced(first: int, last: int, count: int) -> tuple[int, ...]:
    """At most `count` steps from `first` to `last`, evenly spaced in the logarithm."""
    first = min(first, last)
    if count == 1 or first == last:
        return (last,)
    ratio = math.log(last / first) / (count - 1)
    return tuple(sorted({round(first * math.exp(ratio * index)) for index in range(count)} | {last}))


def loras(ranks: tuple[int, ...], targets: Targets) -> tuple[Method, ...]:
    return tuple(LoRA(rank=rank, targets=targets) for rank in ranks)


def sized(data: DataSpec, size: int) -> DataSpec:
    """So much of the data: by the `{size}` in its name, or its first rows."""
    if "{size}" in data.train:
        return data.model_copy(update={"train": data.train.replace("{size}", str(size))})
    return data.model_copy(update={"max_train": size})


def sized_in_words(data: DataSpec, size: int) -> str:
    """What `sized` leaves: `128 examples`; of a builtin, whose size counts what it makes them of, `128 people`."""
    if "{size}" not in data.train:
        return f"{size} examples"
    return f"{size} people" if data.train.startswith(FACTS) else f"data of size {size}"


def plain(model: str) -> str:
    """A model's name as a part of a folder's."""
    last = model.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last)
