"""What may be fixed of a plan, and its bounds."""

from __future__ import annotations

import pytest

from lowregret.errors import SpecError
from lowregret.plan.request import PlanRequest


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"epochs": 1.0, "steps": 3}, "not both"),
        ({"epochs": float("nan")}, "--epochs"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"pass_rate": 0.5}, "--objective rl"),
        ({"objective": "rl", "pass_rate": -0.1}, "0 to 1"),
        ({"max_length": 1}, "--max-length 1"),
    ],
)
def test_a_value_out_of_bounds_is_an_error(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        PlanRequest(**wrong)  # type: ignore[arg-type]
