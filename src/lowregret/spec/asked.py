"""All questions by name, and one made from a recipe and flags. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from lowregret.errors import SpecError, did_you_mean
from lowregret.spec.base import Spec, build
from lowregret.spec.data import DataSpec
from lowregret.spec.question import Question
from lowregret.spec.questions import (
    BatchSizeQuestion,
    CapacityQuestion,
    ComputeQuestion,
    EarlyQuestion,
    InvarianceQuestion,
    LayersQuestion,
    LearningRateQuestion,
    RankQuestion,
    ScalingQuestion,
    ShortRunsQuestion,
    VariantsQuestion,
)
from lowregret.spec.questions_moe import MoEQuestion
from lowregret.spec.questions_rl import RLQuestion

AnyQuestion = Annotated[
    RankQuestion
    | LearningRateQuestion
    | ShortRunsQuestion
    | EarlyQuestion
    | BatchSizeQuestion
    | LayersQuestion
    | CapacityQuestion
    | ComputeQuestion
    | InvarianceQuestion
    | VariantsQuestion
    | MoEQuestion
    | ScalingQuestion
    | RLQuestion,
    Field(discriminator="kind"),
]
QUESTIONS: dict[str, type[Question]] = {
    "rank": RankQuestion,
    "learning-rate": LearningRateQuestion,
    "short-runs": ShortRunsQuestion,
    "early": EarlyQuestion,
    "batch-size": BatchSizeQuestion,
    "layers": LayersQuestion,
    "capacity": CapacityQuestion,
    "compute": ComputeQuestion,
    "invariance": InvarianceQuestion,
    "variants": VariantsQuestion,
    "scaling": ScalingQuestion,
    "moe": MoEQuestion,
    "rl": RLQuestion,
}
"""By kind, in the order of the page."""


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
