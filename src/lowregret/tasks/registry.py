"""All kinds of tasks, and from the spelling of a task to the task.

A kind is an `ENTRY` of this folder, listed here; tests/laws/test_tasks.py then runs over it. The first that matches a
spelling has it, so the functions of users come last.
"""

from __future__ import annotations

from lowregret.errors import SpecError, did_you_mean
from lowregret.tasks import arithmetic, function, gym, mathematics
from lowregret.tasks.base import Task, TaskEntry

TASKS: tuple[TaskEntry, ...] = (arithmetic.ENTRY, gym.ENTRY, mathematics.ENTRY, function.ENTRY)
_BUILTIN = "builtin"


def open_task(spelling: str) -> Task:
    """The task of this name (see the package); SpecError when it is none. Nothing of the user's is imported."""
    return find_entry(spelling).open(spelling)


def find_entry(spelling: str) -> TaskEntry:
    """The kind of this spelling; SpecError when it is of none."""
    kind, _, rest = spelling.partition(":")
    name = rest.partition(":")[0]
    rewarded = [entry.usage.removeprefix(f"{_BUILTIN}:") for entry in TASKS if entry.usage.startswith(f"{_BUILTIN}:")]
    if kind == _BUILTIN and name not in rewarded:
        raise SpecError(f"there is no reward for builtin:{name}. {did_you_mean(name, rewarded)}")
    for entry in TASKS:
        if entry.matches(spelling):
            return entry
    *usages, last = (entry.usage for entry in TASKS)
    raise SpecError(f"unknown task {spelling!r}. Give {', '.join(usages)}, or {last}.")
