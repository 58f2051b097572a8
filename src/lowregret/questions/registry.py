"""The one list of questions, and what goes by it: specs from recipes and flags, statements, figures. Torch-free.

A question is added by its folder and a line here. Its figures are imported when they are drawn, since altair is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol

from pydantic import Field

from lowregret.errors import SpecError, did_you_mean
from lowregret.questions.base import Evidence, Q, Question, Stated, Statement
from lowregret.questions.batch_size.claims import claims as batch_size
from lowregret.questions.batch_size.spec import BatchSizeQuestion
from lowregret.questions.capacity.claims import claims as capacity
from lowregret.questions.capacity.spec import CapacityQuestion
from lowregret.questions.compute.claims import claims as compute
from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.questions.early.claims import claims as early
from lowregret.questions.early.spec import EarlyQuestion
from lowregret.questions.invariance.claims import claims as invariance
from lowregret.questions.invariance.spec import InvarianceQuestion
from lowregret.questions.layers.claims import claims as layers
from lowregret.questions.layers.spec import LayersQuestion
from lowregret.questions.learning_rate.claims import claims as learning_rate
from lowregret.questions.learning_rate.spec import LearningRateQuestion
from lowregret.questions.moe.claims import claims as moe
from lowregret.questions.moe.spec import MoEQuestion
from lowregret.questions.rank.claims import claims as rank
from lowregret.questions.rank.spec import RankQuestion
from lowregret.questions.rl.claims import claims as rl
from lowregret.questions.rl.spec import RLQuestion
from lowregret.questions.scaling.claims import claims as scaling
from lowregret.questions.scaling.spec import ScalingQuestion
from lowregret.questions.short_runs.claims import claims as short_runs
from lowregret.questions.short_runs.spec import ShortRunsQuestion
from lowregret.questions.variants.claims import claims as variants
from lowregret.questions.variants.spec import VariantsQuestion
from lowregret.spec.base import Spec, build
from lowregret.spec.data import DataSpec


@dataclass(frozen=True)
class Entry(Generic[Q]):
    """A question's folder."""

    spec: type[Q]
    claims: Callable[[Q], tuple[Stated[Q], ...]]

    @property
    def kind(self) -> str:
        """How recipes name it."""
        return str(self.spec.model_fields["kind"].default)


_ENTRIES: tuple[Entry[Any], ...] = (
    Entry(RankQuestion, rank),
    Entry(LearningRateQuestion, learning_rate),
    Entry(ShortRunsQuestion, short_runs),
    Entry(EarlyQuestion, early),
    Entry(BatchSizeQuestion, batch_size),
    Entry(LayersQuestion, layers),
    Entry(CapacityQuestion, capacity),
    Entry(ComputeQuestion, compute),
    Entry(InvarianceQuestion, invariance),
    Entry(VariantsQuestion, variants),
    Entry(ScalingQuestion, scaling),
    Entry(MoEQuestion, moe),
    Entry(RLQuestion, rl),
)
"""In the order of the page."""
_BY_KIND: Mapping[str, Entry[Any]] = MappingProxyType({entry.kind: entry for entry in _ENTRIES})
QUESTIONS: Mapping[str, type[Question]] = MappingProxyType({entry.kind: entry.spec for entry in _ENTRIES})
"""By kind, in the order of the page."""

if TYPE_CHECKING:
    AnyQuestion = Question
else:
    AnyQuestion = Annotated[reduce(or_, QUESTIONS.values()), Field(discriminator="kind")]


class Asked(Spec):
    """A question as a study's folder keeps it."""

    question: AnyQuestion


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
    return build(question, asked | given, source=source)


def claims(question: Question) -> tuple[Stated[Any], ...]:
    """The statements of a question, each beside what measures it, in the order of its page."""
    kind = str(getattr(question, "kind", ""))
    if kind not in _BY_KIND:
        raise SpecError(f"the question {kind!r} states no claims. Valid: {', '.join(_BY_KIND)}.")
    return _BY_KIND[kind].claims(question)


def statements(question: Question) -> tuple[Statement, ...]:
    """The claims of a question before its evidence, in the order of its page."""
    return tuple(stated.statement for stated in claims(question))


class Drawn(Protocol):
    """What the figures of a question are: charts.figure.Figure, which needs altair."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def chart(self) -> Any: ...
    @property
    def caption(self) -> str: ...


def figures(evidence: Evidence[Any]) -> Sequence[Drawn]:
    """The figures of a study, most important first."""
    folder = _BY_KIND[evidence.kind].spec.__module__.rpartition(".")[0]
    found: Sequence[Drawn] = import_module(f"{folder}.figures").figures(evidence)
    return found
