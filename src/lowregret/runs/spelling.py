"""Folders of before 0.3.0, in which `lora:16` names a LoRA on attention and mlp: their names in today's spelling.

Since then `all`, the default of a LoRA's targets, takes the unembedding along, and a name without targets means it.
What a method is stands in full in every spec, so only names have to be brought in line: in texts, keys and folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lowregret.spec import FullFT, LoRA, TrialSpec
from lowregret.spec.method import DEFAULT_TARGETS, LINEAR_TARGETS, spell_targets
from lowregret.spec.trial import trial_id

_SINCE = (0, 3)
"""The version in which the names changed."""


def is_older(version: Any) -> bool:
    """Whether a folder's `lowregret` is a version whose names mean something else; one that says nothing is."""
    numbers = re.match(r"(\d+)\.(\d+)", str(version))
    return numbers is None or (int(numbers[1]), int(numbers[2])) < _SINCE


def old_name(method: FullFT | LoRA) -> str:
    """What a method was called before 0.3.0."""
    if isinstance(method, FullFT) or method.targets not in (DEFAULT_TARGETS, LINEAR_TARGETS):
        return method.name
    plain = method.name.removesuffix(f":{spell_targets(LINEAR_TARGETS)}")
    return plain if method.targets == LINEAR_TARGETS else f"{plain}:{'+'.join(DEFAULT_TARGETS)}"


def old_id(trial: TrialSpec) -> str:
    """The folder name that a trial had before 0.3.0. None of today's ids is that of another trial of that time."""
    return trial_id(old_name(trial.method), trial.learning_rate, trial.seed)


def respelled(stored: Any, methods: Iterable[FullFT | LoRA]) -> Any:
    """A value of JSON from a folder of before 0.3.0, with today's names of these methods in its texts and keys.

    A LoRA without targets is renamed though only today's is asked for: it must not be taken for that one.
    """
    asked = tuple(methods)
    loras = [m for m in asked if isinstance(m, LoRA) and m.targets == DEFAULT_TARGETS]
    then = [m.model_copy(update={"targets": LINEAR_TARGETS}) for m in loras]
    names = {old_name(method): method.name for method in (*asked, *then)}
    found = sorted((name for name, now in names.items() if name != now), key=len, reverse=True)
    if not found:
        return stored
    pattern = re.compile(rf"(?<![\w:+-])({'|'.join(map(re.escape, found))})(?![\w+=-]|:\S|\.\d)")

    def text(value: str) -> str:
        return pattern.sub(lambda hit: names[hit[1]], value)

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {text(key): renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return text(value) if isinstance(value, str) else value

    return renamed(stored)
