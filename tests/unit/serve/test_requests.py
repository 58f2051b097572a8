"""What a request may ask for is said at once, however much is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lowregret.serve.problems import Problem
from lowregret.serve.requests import ChatRequest, TextRequest, parse
from lowregret.strict_json import to_json

MANY = 20_000
TEXT: dict[str, Any] = {"model": "m", "prompt": "a"}


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": [1.5] * MANY},
        {"prompt": [*["a"] * MANY, 1]},
        {"prompt": [[1.5]] * MANY},
        {"prompt": [[1.5] * MANY]},
        {"stop": [1] * MANY},
        {"stop_token_ids": [1.5] * MANY},
        {"logit_bias": {str(number): "x" for number in range(MANY)}},
        {"metadata": {str(number): 1 for number in range(MANY)}},
        {"stream": True, "stream_options": {f"x{number}": 1 for number in range(MANY)}},
        {f"x{number}": 1 for number in range(MANY)},
    ],
    ids=lambda changed: "_".join(list(changed)[:2]),
)
def test_not_every_fault_is_written_out(changed: dict[str, Any]) -> None:
    """A kilobyte for each of a million faults, while nobody else is answered, is how a server ends."""
    with pytest.raises(ValidationError) as found:
        TextRequest.model_validate({**TEXT, **changed})
    assert found.value.error_count() <= 1024
    with pytest.raises(Problem) as problem:
        parse(TextRequest, to_json({**TEXT, **changed}).encode())
    assert problem.value.status == 400
    assert not problem.value.body["error"]["message"].startswith(":")


def test_a_temperature_that_is_nearly_nothing_is_nothing() -> None:
    """Logits over 1e-40 are infinite."""
    asked = parse(ChatRequest, b'{"model": "m", "messages": [{}], "temperature": 1e-40}')
    assert asked.params(1, 0, None, (), (), 9).temperature == 0
    assert parse(TextRequest, to_json({**TEXT, "temperature": 0.01}).encode()).temperature == 0.01
