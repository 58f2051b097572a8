"""`MODULE:FUNCTION`: a reward function of the user's own, `(prompt, completion, row) -> float`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, final

from lowregret.errors import SpecError, did_you_mean
from lowregret.tasks.base import Problem, TaskEntry, TaskExample
from lowregret.tasks.parsing import text_column

_PROMPTS = ("prompt", "question", "problem", "instruction")


@final
class Function:
    """Rows of the user's data, graded by a function that is imported in the grader's process only."""

    def __init__(self, spelling: str) -> None:
        """`MODULE:FUNCTION`."""
        self._spelling = spelling
        self._function: Callable[[str, str, dict[str, Any]], Any] | None = None

    def problems(self) -> None:
        """It grades the user's data."""

    def problem(self, row: Mapping[str, Any], prompt_field: str | None, answer_field: str | None) -> Problem:
        """The column named, or the first of the usual ones; the function gets the whole row."""
        return Problem(text_column(row, prompt_field, _PROMPTS), dict(row))

    def grade(self, completion: str, problem: Problem) -> float:
        """Whatever the function returns."""
        self.load()
        assert self._function is not None
        result: Any = self._function(problem.prompt, completion, dict(problem.row))
        return float(result)

    def load(self) -> None:
        """Import it; SpecError when there is none."""
        if self._function is not None:
            return
        module_name, _, name = self._spelling.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # the module is a program by somebody else: it fails in any way it likes
            raise SpecError(
                f"task {self._spelling!r}: module {module_name!r} cannot be imported ({type(error).__name__}: "
                f"{error}). Run from the folder that holds it, or put that on PYTHONPATH."
            ) from None
        found = getattr(module, name, None)
        if not callable(found):
            valid = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise SpecError(
                f"task {self._spelling!r}: {module_name} has no function {name!r}. {did_you_mean(name, valid)}"
            )
        self._function = found


def _matches(spelling: str) -> bool:
    module, colon, name = spelling.partition(":")
    return bool(colon and module) and name.isidentifier()


def is_answer(prompt: str, completion: str, row: dict[str, Any]) -> float:
    """A reward function as users write them: 1 when the completion is the row's answer and nothing else."""
    return float(completion.strip() == row["answer"])


ENTRY = TaskEntry(
    usage="a function of yours as MODULE:FUNCTION",
    matches=_matches,
    open=Function,
    brings_problems=False,
    example=TaskExample(
        "lowregret.tasks.function:is_answer",
        right=lambda problem: str(problem.row["answer"]),
        wrong=lambda problem: f"not {problem.row['answer']}",
        rows=({"prompt": "2 + 2", "answer": "4"}, {"question": "A word?", "answer": "été", "level": 3}),
    ),
)
