"""The objective that a file and the flags of reinforcement learning make together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowregret.errors import SpecError
from lowregret.spec.rl import OWN_PROBLEMS, RL
from lowregret.tasks.source import is_function

FIELDS = tuple(name for name in RL.model_fields if name != "kind")
"""Flags that are of use with rewards only."""


def objective(asked: Any, flags: Mapping[str, Any]) -> Any:
    """The objective of a file (or None) under the flags; None when neither says anything.

    Here alone it is decided whose code a command may run: a function that rewards is run when this very command names
    it, never because a file or the record of a run does; and so it is with the word to trust it. SpecError where only a
    file says it, and for a flag that the objective has no use for.
    """
    given = {name: flags[name] for name in FIELDS if flags.get(name) is not None}
    kind = flags.get("objective")
    known = dict(asked) if isinstance(asked, dict) else {} if asked is None else {"kind": asked}
    if kind is not None:
        known = {**known, "kind": kind} if known.get("kind", kind) == kind else {"kind": kind}
    if given and known.get("kind") != "rl":
        name = next(iter(given)).replace("_", "-")
        raise SpecError(f"--{name} is of use with --objective rl only. Add that, or leave it out.")
    if not known:
        return None
    if known["kind"] == "rl" and "task" not in {**known, **given}:
        raise SpecError("--objective rl needs a --task. `--task builtin:arithmetic` works as it is.")
    _named_here(known, given)
    return {**known, **given}


def _named_here(stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """SpecError for code, or trust in it, that a file names and no flag does."""
    task = stored.get("task")
    if "task" not in given and isinstance(task, str) and is_function(task):
        raise SpecError(
            f"objective.task: {task!r} is code, which a file cannot have run. If you trust it, name it on the command "
            f"line too: --task {task}"
        )
    if stored.get("trust_task") and not given.get("trust_task"):
        raise SpecError(
            "objective.trust_task: a file cannot say which code to trust. If you do, say it on the command line too: "
            "--trust-task"
        )


def brings_problems(asked: Any) -> bool:
    """Whether the task of an objective needs no data."""
    task = asked.get("task") if isinstance(asked, dict) else None
    return isinstance(task, str) and task.startswith(OWN_PROBLEMS)
