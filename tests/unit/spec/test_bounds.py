"""No number that a command line or a file may give is without a bound: the cap is checked before the work."""

from __future__ import annotations

from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.spec import CompareSpec, Spec, TrainSpec, build
from lowregret.spec.keys import Key, keys
from lowregret.spec.plan import PlanSpec

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
