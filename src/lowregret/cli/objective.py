"""The objective that a file and the flags of reinforcement learning make together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowregret.errors import SpecError
from lowregret.spec.rl import OWN_PROBLEMS, RL

FIELDS = tuple(name for name in RL.model_fields if name != "kind")
"""Flags that are of use with rewards only."""


def objective(asked: Any, flags: Mapping[str, Any]) -> Any:
    """The objective of a file (or None) under the flags; None when neither says anything.

    SpecError for a flag that the objective has no use for.
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
    return {**known, **given}


def brings_problems(asked: Any) -> bool:
    """Whether the task of an objective needs no data."""
    task = asked.get("task") if isinstance(asked, dict) else None
    return isinstance(task, str) and task.startswith(OWN_PROBLEMS)
