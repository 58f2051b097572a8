"""The one list of questions, and what goes by it: specs from recipes and flags, statements, figures. Torch-free.

A question is added by its folder and a line here. Its claims and figures are imported when they are asked for: help and
recipes need neither, and the statistics and charts behind them take longer than help may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from importlib import import_module
from operator import or_
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field, ValidationError, model_validator

from lowregret.errors import SpecError, did_you_mean
from lowregret.questions.batch_size.spec import BatchSizeQuestion
from lowregret.questions.capacity.spec import CapacityQuestion
from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.questions.early.spec import EarlyQuestion
from lowregret.questions.invariance.spec import InvarianceQuestion
from lowregret.questions.layers.spec import LayersQuestion
from lowregret.questions.learning_rate.spec import LearningRateQuestion
from lowregret.questions.moe.spec import MoEQuestion
from lowregret.questions.question import Question
from lowregret.questions.rank.spec import RankQuestion
from lowregret.questions.rl.spec import RLQuestion
from lowregret.questions.scaling.spec import ScalingQuestion
from lowregret.questions.short_runs.spec import ShortRunsQuestion
from lowregret.questions.variants.spec import VariantsQuestion
from lowregret.spec.base import Spec, build, explained
from lowregret.spec.data import DataSpec

_QUESTIONS: tuple[type[Question], ...] = (
    RankQuestion,
    LearningRateQuestion,
    ShortRunsQuestion,
    EarlyQuestion,
    BatchSizeQuestion,
    LayersQuestion,
    CapacityQuestion,
    ComputeQuestion,
    InvarianceQuestion,
    VariantsQuestion,
    ScalingQuestion,
    MoEQuestion,
    RLQuestion,
)
QUESTIONS: Mapping[str, type[Question]] = MappingProxyType(
    {str(question.model_fields["kind"].default): question for question in _QUESTIONS}
)
"""By kind, in the order of the page."""

if TYPE_CHECKING:
    from lowregret.questions.claim import Evidence, Stated, Statement

    AnyQuestion = Question
else:
    AnyQuestion = Annotated[reduce(or_, QUESTIONS.values()), Field(discriminator="kind")]


class Asked(Spec):
    """A question as a study's folder keeps it."""

    question: AnyQuestion

    @model_validator(mode="after")
    def _can_be(self) -> Asked:
        require_trials(self.question)
        return self


def require_trials(question: Question) -> None:
    """ValueError for a question of which a trial cannot be, though each of its numbers is one that it may have."""
    try:
        question.groups()
    except ValidationError as error:
        raise ValueError(
            f"the question {question.name!r} asks for trials that cannot be: {explained(error)} Ask for others"
        ) from None


def make_question(
    values: Mapping[str, Any], *, quick: bool = False, flags: Mapping[str, Any] | None = None, source: str = ""
) -> Question:
    """A question from a recipe's keys; `quick` wins over them, and flags that are given win over both.

    SpecError names the key or flag at fault.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    kind = values.get("kind")
    if kind not in QUESTIONS:
        place = f"{source}: " if source else ""
        raise SpecError(f"{place}kind: names the question, not {kind!r}. {did_you_mean(str(kind), QUESTIONS)}")
    question = QUESTIONS[str(kind)]
    asked: dict[str, Any] = dict(values)
    if isinstance(asked.get("data"), str):
        asked["data"] = {"train": asked["data"]}
    if not isinstance(asked.get("data", {}), dict):
        place = f"{source}: " if source else ""
        raise SpecError(f"{place}data is {asked['data']!r}, and must be a table: write [data] above its keys.")
    if quick:
        asked |= question.QUICK
    data: dict[str, Any] = dict(asked.get("data") or {})
    names = {"data": "train", "eval_data": "eval"}
    data |= {names.get(key, key): given.pop(key) for key in list(given) if key in names or key in DataSpec.model_fields}
    if data:
        default = question.model_fields["data"].default
        objective = asked.get("objective")
        other = "train" in data or (isinstance(objective, dict) and "task" in objective)  # a task brings problems
        asked["data"] = data if other else default.model_dump(exclude_defaults=True) | data
    unknown = sorted(given.keys() - question.model_fields.keys())
    if unknown:
        raise SpecError(f"--{unknown[0].replace('_', '-')}: the question {kind!r} does not ask for it. Leave it out.")
    found = build(question, asked | given, source=source)
    try:
        require_trials(found)
    except ValueError as error:
        raise SpecError(f"{source}: {error}." if source else f"{error}.") from None
    return found


class Drawn(Protocol):
    """What a figure is: report.charts.drawing.Figure."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def chart(self) -> Any: ...
    @property
    def caption(self) -> str: ...


def claims(question: Question) -> Sequence[Stated[Any]]:
    """The statements of a question, each beside what measures it, in the order of its page."""
    found: Sequence[Stated[Any]] = _part(question, "claims").claims(question)
    return found


def statements(question: Question) -> tuple[Statement, ...]:
    """The claims of a question before its evidence, in the order of its page."""
    return tuple(stated.statement for stated in claims(question))


def figures(evidence: Evidence[Any]) -> Sequence[Drawn]:
    """The figures of a study, most important first."""
    found: Sequence[Drawn] = _part(evidence.question, "figures").figures(evidence)
    return found


def _part(question: Question, name: str) -> Any:
    """A module of the question's folder."""
    return import_module(f"{QUESTIONS[question.name].__module__.rpartition('.')[0]}.{name}")
