"""What the flags of a plan say about bounds is what the plan holds them to."""

from __future__ import annotations

import pytest

from lowregret.errors import SpecError
from lowregret.plan.request import PlanRequest
from lowregret.spec.keys import keys
from lowregret.spec.plan import PlanSpec

ELSEWHERE = ("method", "hardware", "price", "eval_data", "prompt_field", "completion_field", "pilot")
"""What the planner takes beside what is asked of a training."""
OUTSIDE = {"1 or more": 0, "2 or more": 1, "above 0": 0}


def test_every_field_of_a_request_is_a_flag_with_the_same_default() -> None:
    fields = {name: field.default for name, field in PlanRequest.__dataclass_fields__.items() if name != "method"}
    assert {name: field.default for name, field in PlanSpec.model_fields.items() if name not in ELSEWHERE} == fields


def test_a_bound_is_held() -> None:
    tried = 0
    for key in keys(PlanSpec):
        outside = OUTSIDE.get(key.bounds)
        if outside is not None and key.path not in ELSEWHERE:
            tried += 1
            with pytest.raises(SpecError, match=key.option):
                PlanRequest(**{key.path: outside})  # type: ignore[arg-type]
    assert tried >= 8
    for share in (-0.1, 1.1):
        with pytest.raises(SpecError, match="--pass-rate"):
            PlanRequest(objective="rl", pass_rate=share)
