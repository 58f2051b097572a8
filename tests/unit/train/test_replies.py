"""What of a held-out row is asked."""

from __future__ import annotations

import pytest

from lowregret.data.example import Example
from lowregret.train.replies import prompt_length


@pytest.mark.parametrize(
    ("tokens", "first", "length"),
    [(10, 6, 6), (10, 2, 2), (100, 1, 32), (10, 1, 5), (2, 1, 1), (3, 1, 1)],
    ids=["prompt", "short prompt", "text", "short text", "two tokens", "three tokens"],
)
def test_a_prompt_is_what_comes_before_the_first_answer(tokens: int, first: int, length: int) -> None:
    example = Example(tuple(range(tokens)), (False,) * first + (True,) * (tokens - first))
    assert prompt_length(example) == length


def test_the_first_of_several_answers_is_asked_for() -> None:
    example = Example(tuple(range(8)), (False, False, True, True, False, False, True, True))
    assert prompt_length(example) == 2
