"""What the product says of a run: the one place where it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from lowregret.data.facts import DataFacts
from lowregret.data.scan import scan
from lowregret.models.files import folder_of
from lowregret.plan.make import build_plan
from lowregret.plan.plan import Plan
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA, build
from lowregret.spec.method import parse_method
from lowregret.spec.optimizer import Schedule
from lowregret.spec.plan import PlanSpec


@dataclass(frozen=True)
class Setting:
    """What a training ran on."""

    model: str
    batch_size: int
    """Rows a step; by reward, problems."""
    steps: int
    schedule: Schedule = "constant"
    objective: Literal["sft", "rl"] = "sft"
    group_size: int | None = None
    max_tokens: int | None = None
    data: str | None = None
    """A source of training rows; None where they are not at hand."""

    def __str__(self) -> str:
        data = "" if self.data is None else f", {self.data}"
        schedule = "" if self.schedule == "constant" else f", {self.schedule}"
        groups = f" × {self.group_size}" if self.group_size else ""
        return f"{self.model.rpartition('/')[2]}{data}, {self.steps} × {self.batch_size}{groups}{schedule}"


def method_of(name: str) -> FullFT | LoRA:
    """A method by its name."""
    fields = parse_method(name)
    return build(FullFT if fields["kind"] == "full" else LoRA, fields)


def rate(setting: Setting, method: FullFT | LoRA) -> RatePrior:
    """The rate to start from."""
    return recommend(
        method,
        find_model(setting.model),
        batch_size=setting.batch_size,
        steps=setting.steps,
        schedule=setting.schedule,
        objective=setting.objective,
    )


@cache
def plan(setting: Setting, method: FullFT | LoRA | None = None) -> Plan:
    """The plan of such a run; of `method`, when that is given."""
    options: dict[str, Any] = {
        "objective": setting.objective,
        "method": method,
        "batch_size": setting.batch_size,
        "steps": setting.steps,
        "group_size": setting.group_size,
        "max_tokens": setting.max_tokens,
    }
    request = build(PlanSpec, {name: value for name, value in options.items() if value is not None})
    return build_plan(find_model(setting.model), request, facts=_facts(setting.data, setting.model))


def expected_regret(setting: Setting, method: LoRA) -> tuple[float, float, float] | None:
    """What the plan expects the method to lose, low and high: shares of what FullFT learns; None where it says none."""
    found: dict[str, float] | None = plan(setting, method).capacity.get("expected_regret")
    return None if found is None else (found["value"], found["low"], found["high"])


@cache
def _facts(data: str | None, model: str) -> DataFacts | None:
    if data is None:
        return None
    return scan(data, tokenizer=folder_of(model), context=find_model(model).context)
