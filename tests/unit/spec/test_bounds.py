"""No number that a command line or a file may give is without a bound: the cap is checked before the work."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lowregret import limits
from lowregret.errors import SpecError
from lowregret.questions.registry import QUESTIONS
from lowregret.spec import CompareSpec, Spec, TrainSpec, build
from lowregret.spec.keys import Key, keys
from lowregret.spec.plan import PlanSpec
from lowregret.spec.study import GroupSpec

NUMBERS = (10**30, -(10**30), float("inf"), float("-inf"), float("nan"))


def fields(spec: type[Spec], key: Key) -> dict[str, Any]:
    """A spec's fields that are right, of the objective that the key is of."""
    if spec is PlanSpec:
        return {"objective": "rl"} if key.panel == "Reinforcement learning" else {}
    if key.path.startswith("objective."):
        return {"model": "tiny", "data": {"train": "rows.jsonl"}, "objective": {"kind": "rl", "task": "math"}}
    return {"model": "tiny", "data": {"train": "rows.jsonl"}}


@pytest.mark.parametrize("spec", [TrainSpec, CompareSpec, PlanSpec])
def test_no_number_of_a_spec_is_without_bounds(spec: type[Spec]) -> None:
    numeric = [key for key in keys(spec) if key.reads in ("int", "float") and not key.fills]
    assert len(numeric) > 10
    for key in numeric:
        build(spec, fields(spec, key))
        for number in NUMBERS:
            values = fields(spec, key)
            table, _, name = key.path.rpartition(".")
            (values.setdefault(table, {}) if table else values)[name] = number
            with pytest.raises(SpecError) as told:
                build(spec, values)
            assert name.replace("_", "-") in str(told.value).replace("_", "-"), key.path


@pytest.mark.parametrize("method", ["lora:4:alpha=1e400", "lora:4:dropout=nan", f"lora:{10**30}", "lora:4:lora+=1e400"])
def test_nor_one_of_a_method(method: str) -> None:
    with pytest.raises(SpecError, match=r"rank|alpha|dropout|b_rate"):
        build(TrainSpec, {"model": "tiny", "data": {"train": "rows.jsonl"}, "method": method})


def unbounded(node: dict[str, Any], path: str, definitions: dict[str, Any]) -> list[str]:
    """Where a JSON schema takes a number without saying how large or how small it may be."""
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    below = [(path, part) for kind in ("anyOf", "oneOf", "allOf") for part in node.get(kind, [])]
    below += [(f"{path}.{name}", part) for name, part in node.get("properties", {}).items()]
    items, others = node.get("items"), node.get("additionalProperties")
    below += [(f"{path}[]", part) for part in (items, others, *node.get("prefixItems", [])) if isinstance(part, dict)]
    found = [place for name, part in below for place in unbounded(part, name, definitions)]
    number = node.get("type") in ("integer", "number") and not {"const", "enum"} & set(node)
    ends = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
    return [*found, path] if number and not all(any(name in node for name in end) for end in ends) else found


@pytest.mark.parametrize("spec", [*QUESTIONS.values(), GroupSpec], ids=lambda spec: spec.__name__)
def test_nor_one_of_a_study(spec: type[Spec]) -> None:
    schema = spec.model_json_schema()
    assert unbounded(schema, "", schema["$defs"]) == []
    assert unbounded({"type": "array", "items": {"type": "integer", "minimum": 0}}, "", {}) == ["[]"]


def test_a_list_has_an_end() -> None:
    rates = [1e-9 * n for n in range(1, limits.LISTED + 2)]
    fields = {"model": "tiny", "data": {"train": "rows.jsonl"}}
    build(CompareSpec, {**fields, "learning_rates": rates[:-1]})
    with pytest.raises(SpecError, match=r"learning_rates: 10,001 are listed, at most 10,000 may be"):
        build(CompareSpec, {**fields, "learning_rates": rates})


@pytest.mark.parametrize("spec", [CompareSpec, GroupSpec])
@pytest.mark.parametrize(
    "rates", [(1.0000001e-4, 1.0000002e-4), (1e-3, 2e-3, 0.00100000049), (0.1, math.nextafter(0.1, 1))]
)
def test_listed_rates_have_folders_of_their_own(spec: type[CompareSpec | GroupSpec], rates: tuple[float, ...]) -> None:
    """An id shows six digits: two trials of one id were trained over and over."""
    asked = {"model": "tiny", "data": {"train": "rows.jsonl"}, "condition": "main", "methods": ("full", "lora:4")}
    fields = {name: value for name, value in asked.items() if name in spec.model_fields}
    with pytest.raises(SpecError, match=r"learning_rates: .* are both .* in six digits.*: leave one of them out"):
        build(spec, {**fields, "learning_rates": rates})
    build(spec, {**fields, "learning_rates": (1e-3, 1.00001e-3)})
