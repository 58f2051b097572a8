"""What a task is: problems, and a grade for every completion."""

from __future__ import annotations

from collections.abc import Mapping
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

    def grade(self, completion: str, problem: Problem) -> float:
        """The reward, usually 0 or 1. May raise, hang or return nonsense: `Grader` is there for that."""

    def load(self) -> None:
        """Import what grading needs; SpecError when that is not there."""


def options(text: str) -> dict[str, str]:
    """`key=value,…` as a dictionary; ValueError names a part that is none."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"{part!r} is no key=value")
        found[key] = value
    return found


def after_last(text: str, mark: str) -> str | None:
    """What follows the last `mark`; None without one."""
    _, found, tail = text.rpartition(mark)
    return tail if found else None
