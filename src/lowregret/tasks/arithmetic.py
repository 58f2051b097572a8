"""`builtin:arithmetic`: chains of one-digit additions and subtractions; the last `Answer:` must be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from lowregret.data.builtin.arithmetic import read_answer
from lowregret.data.builtin.registry import load_builtin
from lowregret.errors import SpecError
from lowregret.tasks.base import Problem, TaskEntry, TaskExample


@final
class Arithmetic:
    """The problems of the built-in data of this name, which `difficulty` (steps of a chain) makes harder."""

    def __init__(self, source: str) -> None:
        """`builtin:arithmetic[:key=value,…]`."""
        self._source = source

    def problems(self) -> tuple[list[Problem], list[Problem]]:
        """(training, held out); DataError for an unknown option."""
        data = load_builtin(self._source)
        return [_problem(row) for row in data.train], [_problem(row) for row in data.test]

    def problem(self, row: Mapping[str, Any], prompt_field: str | None, answer_field: str | None) -> Problem:
        """It has problems of its own."""
        raise SpecError("builtin:arithmetic brings its own problems: leave the data out.")

    def grade(self, completion: str, problem: Problem) -> float:
        """1 when the number after the last `Answer:` is right, else 0."""
        return float(read_answer(completion) == problem.row["answer"])

    def load(self) -> None:
        """Nothing to import."""


def _problem(row: Mapping[str, Any]) -> Problem:
    question, solution = (turn["content"] for turn in row["messages"])
    # The worked solution of `wrong` > 0 data may end with another answer: the right one is the expression's.
    answer = _value(question)
    return Problem(question, {"answer": answer}, solution if read_answer(solution) == answer else f"Answer: {answer}")


def _value(question: str) -> int:
    """The value of the expression in a question: signed digits, as data/builtin/arithmetic.py writes them."""
    sign, total = 1, 0
    for character in question:
        if character in "+-":
            sign = 1 if character == "+" else -1
        elif character.isdigit():
            total += sign * int(character)
    return total


ENTRY = TaskEntry(
    usage="builtin:arithmetic",
    matches=lambda spelling: spelling.split(":")[:2] == ["builtin", "arithmetic"],
    open=Arithmetic,
    brings_problems=True,
    example=TaskExample(
        "builtin:arithmetic:size=12,test_size=8,difficulty=4,wrong=0.3",
        right=lambda problem: problem.gold or "",
        wrong=lambda problem: f"Answer: {problem.row['answer'] + 1}",
    ),
)
