"""What a task is: problems, and a grade for every completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Problem:
    """Something to be completed, and what its completions are judged by."""

    prompt: str
    """What the user says."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: the data's own columns."""
    gold: str | None = None
    """A completion that the task grades 1; None when it knows none."""


class Task(Protocol):
    """A verifiable reward."""

    def problems(self) -> tuple[list[Problem], list[Problem]] | None:
        """(training, held out), the same on every call; None for a task that grades rows of the user's data."""

    def problem(self, row: Mapping[str, Any], prompt_field: str | None, answer_field: str | None) -> Problem:
        """The problem in a row of the user's data; DataError (without a place) when there is none."""

    def grade(self, completion: str, problem: Problem) -> Any:
        """The reward, usually 0 or 1. May raise, hang or return nonsense: `Grader` is there for that."""

    def load(self) -> None:
        """Import what grading needs; SpecError when that is not there."""


@dataclass(frozen=True)
class TaskExample:
    """A small task whose answers are known."""

    spelling: str
    """Of a few problems; with options, `seed` among those it takes, when the task brings its own problems."""
    right: Callable[[Problem], str]
    """A completion that must be rewarded by 1 or more."""
    wrong: Callable[[Problem], str]
    """One that must be rewarded by less."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Of a user's data, when the task grades those."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What the working folder must hold: name → content."""


def _never(spelling: str) -> bool:
    return False


@dataclass(frozen=True)
class TaskEntry:
    """One kind of task: which spellings are its own, and how it is opened."""

    usage: str
    """How a user spells it, for messages."""
    matches: Callable[[str], bool]
    """Whether a spelling is of this kind; the first kind that matches has it."""
    open: Callable[[str], Task]
    """From the spelling. Imports nothing of the user's, and no extra."""
    brings_problems: bool
    """Whether it has problems of its own, so that no data are named."""
    example: TaskExample
    """What the laws of tests/laws/test_tasks.py run over."""
    needs: str | None = None
    """The module of an extra without which it cannot grade."""
    evaluates: Callable[[str], bool] = _never
    """Whether grading, for a spelling, runs a completion's text as Python: `eval`, `exec`, or sympy's parsers."""
    own_code: bool = False
    """Whether it is code of the user's, which only the command line may name."""
