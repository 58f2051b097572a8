"""The ways in which data write the same chat, of which a template may know only one. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lowregret.data.turns import Message, is_deep
from lowregret.strict_json import to_json


def forms(messages: tuple[Message, ...]) -> Iterator[list[Message]]:
    """The messages as they are; then in other ways to write the same, for templates that know only those.

    Null and empty contents beside calls of tools; arguments as JSON text (OpenAI's form) and as objects; the role
    `developer` as `system`; contents as lists of parts.
    """
    given = list(messages)
    filled = [turn | {"content": ""} if turn["content"] is None else turn for turn in given]
    parsed = [_with_arguments(turn, _parsed) for turn in filled]
    no_developer = [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in parsed]
    quoted = [_with_arguments(turn, _quoted) for turn in given]
    nulled = [turn | {"content": None} if turn.get("tool_calls") and not turn["content"] else turn for turn in quoted]
    tried: list[list[Message]] = []
    for form in (given, filled, parsed, no_developer, quoted, nulled):
        if form not in tried:
            tried.append(form)
            yield form


def _with_arguments(turn: Message, change: Callable[[Any], Any]) -> Message:
    """The turn with the arguments of its calls changed."""
    calls = []
    for call in turn.get("tool_calls") or ():
        held = call.get("function")
        holder = held if isinstance(held, Mapping) else call
        if "arguments" not in holder:
            return turn
        changed = {**holder, "arguments": change(holder["arguments"])}
        calls.append(changed if holder is call else {**call, "function": changed})
    return {**turn, "tool_calls": calls} if calls else turn


def _parsed(arguments: Any) -> Any:
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) and not is_deep(found) else arguments


def _quoted(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else to_json(arguments, ensure_ascii=False)
