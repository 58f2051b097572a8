"""From the spelling of a task to the task."""

from __future__ import annotations

from lowregret.errors import SpecError, did_you_mean
from lowregret.tasks.arithmetic import Arithmetic
from lowregret.tasks.base import Task
from lowregret.tasks.function import Function
from lowregret.tasks.gym import Gym
from lowregret.tasks.mathematics import Mathematics

_BUILTIN = ("arithmetic",)


def open_task(spelling: str) -> Task:
    """The task of this name (see the package); SpecError when it is none. Nothing of the user's is imported."""
    kind, colon, rest = spelling.partition(":")
    if kind == "builtin":
        name = rest.partition(":")[0]
        if name not in _BUILTIN:
            raise SpecError(f"there is no reward for builtin:{name}. {did_you_mean(name, _BUILTIN)}")
        return Arithmetic(spelling)
    if kind == "gym" and rest:
        return Gym(spelling)
    if spelling == "math":
        return Mathematics()
    if colon and kind and rest.isidentifier():
        return Function(spelling)
    raise SpecError(
        f"unknown task {spelling!r}. Give builtin:arithmetic, gym:NAME, math, or a function of yours as "
        "MODULE:FUNCTION."
    )
