"""What a model writes, as a client is told of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lowregret.engine.sampling.draw import SamplingParams
from lowregret.serve.answers import Choice

CALL = '<tool_call>{{"name": "add", "arguments": {}}}</tool_call>'


def choice(text: str) -> Choice:
    found = Choice(SamplingParams(), cast(Any, SimpleNamespace(decode=lambda ids: "")), calls=True)
    found.text = text
    return found


@pytest.mark.parametrize("deep", [600, 5000, 100_000])
def test_a_call_that_is_nested_too_deeply_is_text(deep: int) -> None:
    """Python 3.11 reads 600 lists within each other, and cannot write them again; others may."""
    text = CALL.format("[" * deep + "]" * deep)
    both = choice(text + CALL.format('{"a": 3}')).tool_calls()
    assert both[-1]["function"]["arguments"] == '{"a": 3}'
    assert choice(text).tool_calls() == both[:-1]
    assert len(both) <= (2 if deep < 1000 else 1)


@pytest.mark.parametrize("arguments", ["[[1, 2]]", '"as a text"', "{}"])
def test_a_call_is_told(arguments: str) -> None:
    (call,) = choice(CALL.format(arguments)).tool_calls()
    assert call == {"type": "function", "function": {"name": "add", "arguments": arguments.strip('"')}}
