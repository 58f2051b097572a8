"""`gym:NAME[:key=value,…]`: every task of reasoning-gym (extra `[rl]`), graded by its own `score_answer`."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, final

from lowregret.errors import SpecError, did_you_mean
from lowregret.foreign import boundary
from lowregret.tasks.base import Problem, TaskEntry, TaskExample
from lowregret.tasks.parsing import after_last, options

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
EVALUATING = frozenset(
    {
        "binary_matrix", "bitwise_arithmetic", "composite", "countdown", "intermediate_integration", "n_queens",
        "number_sorting", "polynomial_multiplication", "puzzle24", "simple_integration", "spiral_matrix",
        "string_insertion",
    }
)  # fmt: skip
"""The tasks of reasoning-gym 0.1.25 whose scorers evaluate text; `composite` passes it on to any other."""
_TEST_SEED = 1_000_003
"""How far the held-out seed lies from the training seed."""


@final
class Gym:
    """A task of reasoning-gym. `size`, `test_size` and `seed` are ours, other options are the task's own."""

    def __init__(self, spelling: str) -> None:
        """`gym:NAME[:key=value,…]`; SpecError for what cannot be read."""
        _, _, rest = spelling.partition(":")
        self.name, _, text = rest.partition(":")
        self._spelling = spelling
        try:
            given = options(text)
            self._size, self._test_size, self._seed = (
                int(given.pop(key, default)) for key, default in (("size", 1024), ("test_size", 256), ("seed", 0))
            )
        except ValueError as error:
            raise SpecError(f"task {spelling!r}: {error}. Write gym:NAME:key=value,…") from None
        if min(self._size, self._test_size) < 1:
            raise SpecError(f"task {spelling!r}: size and test_size must be at least 1.")
        self._config = {key: _value(value) for key, value in given.items()}
        self._scorer: Any = None

    def problems(self) -> tuple[list[Problem], list[Problem]]:
        """(training, held out): draws of two seeds."""
        train, test = self._dataset(self._seed, self._size), self._dataset(self._seed + _TEST_SEED, self._test_size)
        with self._made():
            return [_problem(train[index]) for index in range(self._size)], [
                _problem(test[index]) for index in range(self._test_size)
            ]

    def problem(self, row: Mapping[str, Any], prompt_field: str | None, answer_field: str | None) -> Problem:
        """It has problems of its own."""
        raise SpecError(f"gym:{self.name} brings its own problems: leave the data out.")

    def grade(self, completion: str, problem: Problem) -> float:
        """What reasoning-gym gives for the answer in a completion: from 0 to 1."""
        self.load()
        return float(self._scorer.score_answer(read_answer(completion), problem.row["entry"]))

    def load(self) -> None:
        """Make the scorer."""
        if self._scorer is None:
            self._scorer = self._dataset(self._seed, 1)

    def _dataset(self, seed: int, size: int) -> Any:
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError as error:
            raise SpecError(
                f"task {self._spelling!r} needs reasoning-gym: pip install 'lowregret[rl]' ({error})."
            ) from None
        if self.name not in DATASETS:
            raise SpecError(f"reasoning-gym has no task {self.name!r}. {did_you_mean(self.name, DATASETS)}")
        with self._made():
            return reasoning_gym.create_dataset(self.name, seed=seed, size=size, **self._config)

    def _made(self) -> AbstractContextManager[None]:
        """Around what reasoning-gym makes of options, some of which it meets only when it draws a problem."""
        return boundary(
            SpecError, f"task {self._spelling!r}", "reasoning-gym makes no problems of it", "Correct its options."
        )


def read_answer(completion: str) -> str:
    """The answer in a completion: in the last <answer> tag, else after the last `Answer:`, else all of it."""
    tagged: list[str] = _TAGGED.findall(completion)
    if tagged:
        return tagged[-1].strip()
    found = after_last(completion, "Answer:")
    return (completion if found is None else found).strip()


def _problem(entry: Mapping[str, Any]) -> Problem:
    answer = entry["answer"]
    gold = None if answer is None else f"<answer>{answer}</answer>"
    return Problem(str(entry["question"]).strip(), {"entry": dict(entry)}, gold)


def _value(text: str) -> Any:
    """A number, a truth value or a list of one as Python spells it; else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


ENTRY = TaskEntry(
    usage="gym:NAME",
    matches=lambda spelling: spelling.startswith("gym:") and spelling != "gym:",
    open=Gym,
    brings_problems=True,
    example=TaskExample(
        "gym:chain_sum:size=6,test_size=4",
        right=lambda problem: problem.gold or "",
        wrong=lambda problem: f"<answer>{int(problem.row['entry']['answer']) + 1}</answer>",
    ),
    needs="reasoning_gym",
    evaluates=lambda spelling: spelling.split(":")[1] in EVALUATING,
)
