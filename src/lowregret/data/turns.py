"""Messages as people write them → chat turns for a template: roles, contents, calls of tools, and what is not to learn.

What a turn holds goes to the chat template under the names that the template knows, which are OpenAI's: `role`,
`content`, `tool_calls`, `tool_call_id`, `name`, `reasoning_content`. Only the layout of ShareGPT and of pairs is
translated; flags that keep a turn out of the loss are taken off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowregret import limits
from lowregret.errors import DataError, did_you_mean
from lowregret.strict_json import to_json

Message = dict[str, Any]
"""A turn: `role`, `content` (text, or None where the data say null), and whatever else a template may read."""

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function": "tool",
    "ipython": "ipython",
}
"""The role that a template gets, by what the data call it: OpenAI's words, ShareGPT's, and what other tools made of
these."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a turn that hold its thought."""
_SAID = ("content", "value", "tool_calls", "function_call", *THOUGHTS)
"""Keys of a turn of which it has one at least."""
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
"""Columns of a prompt and its answer, those that a row is first searched for first."""

_CALLS = ("function_call", "tool_call")
# How Python writes a list or an object, and how lists of messages begin, in either notation.
_PYTHON = re.compile(r"\s*\[?\s*[\[{]\s*'")
_OBJECTS = re.compile(r"\s*\[\s*\{\s*['\"]")
_MESSAGES = re.compile(r"\s*\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")
_FLAGS = {
    "weight": True,
    "train": True,
    "training": True,
    "trainable": True,
    "loss": True,
    "loss_mask": True,
    "mask": False,
    "masked": False,
}
"""Flags of a turn, and what they are where the turn is learnt: OpenAI's and Mistral's `weight`, Axolotl's `train` and
`training`, ms-swift's `loss`, verl's `loss_mask`; `mask` and torchtune's `masked` say that it is not."""
_KNOWN = ("role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id", "name", *THOUGHTS, *_FLAGS)


@dataclass(frozen=True)
class Turns:
    """The messages of a row."""

    messages: tuple[Message, ...]
    skipped: Mapping[int, str] = field(default_factory=dict)
    """Position of each assistant turn that a flag keeps out of the loss → the flag, as `weight: 0`."""
    others: tuple[str, ...] = ()
    """Keys of messages that are none of a message's usual ones, of which templates get all the same; and flags that
    ask for a turn to be learnt that is no assistant's."""


def speak(role: str, content: str) -> Message:
    """A turn that only says something."""
    return {"role": role, "content": content}


def spoken(turn: Message) -> str:
    """All that a turn says, calls of tools included: for counting and comparing, not for training."""
    parts = [turn[key] for key in THOUGHTS if isinstance(turn.get(key), str)]
    parts.append(turn.get("content") or "")
    if turn.get("tool_calls"):
        parts.append(to_json(turn["tool_calls"], ensure_ascii=False))
    return "\n".join(part for part in parts if part)


def says_something(turn: Message) -> bool:
    """Whether there is anything in a turn to learn but its end."""
    return bool(spoken(turn).strip())


def has_thought(turn: Message) -> bool:
    """Whether a turn has a thought of its own, beside its content."""
    return any(isinstance(turn.get(key), str) and turn[key].strip() for key in THOUGHTS)


def read_messages(value: Any, name: str) -> Turns:
    """A list of messages, or its JSON text. Raises DataError (without a place) that names the field at fault."""
    value = from_json(value, name, "a JSON list of messages")
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else kind_of(value)
        raise DataError(f"field {name!r}: {found} where a list of messages is needed.")
    messages: list[Message] = []
    skipped: dict[int, str] = {}
    others: dict[str, None] = {}
    for rank, item in enumerate(value):
        place = f"{name}[{rank}]"
        if not isinstance(item, dict):
            raise DataError(f"field {place!r}: {kind_of(item)} where an object with role and content is needed.")
        pair = None if "role" in item or "from" in item else _pair(item)
        if pair is not None:
            messages.extend(_exchange(item, pair, place))
            continue
        turn = _turn(item, place)
        learnt, kept_out = _flags(item, place)
        if turn["role"] != "assistant":
            others.update((f"{name}[].{flag} of a turn of {turn['role']}", None) for flag in learnt)
        elif kept_out:
            skipped[len(messages)] = kept_out[0]
        messages.append(turn)
        others.update((f"{name}[].{key}", None) for key in item if key not in _KNOWN and item[key] is not None)
    return Turns(tuple(messages), skipped, tuple(others))


def says_messages(value: Any) -> bool:
    """Whether a field is a list, or the text of one of messages: of objects with a role that is known, or with any role
    and something that it says.

    Of text that is no JSON, such as Python's notation of one, it is whether it begins so. Other lists of objects, such
    as an answer in JSON, are texts.
    """
    if not isinstance(value, str):
        return isinstance(value, list)
    if not _OBJECTS.match(value):
        return False
    try:
        first = json.loads(value)[0]
    except (ValueError, RecursionError):
        return _MESSAGES.match(value) is not None
    speakers = [first[key] for key in ("role", "from") if key in first]
    known = any(isinstance(speaker, str) and speaker in ROLES for speaker in speakers)
    return known or (bool(speakers) and any(key in first for key in _SAID))


def _pair(item: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if all(item.get(key) is not None for key in pair)), None)


def _exchange(item: Mapping[str, Any], pair: tuple[str, str], place: str) -> list[Message]:
    """A question and its answer in one object, with a system prompt perhaps."""
    asked, answered = (as_text(item[key], f"{place}.{key}") for key in pair)
    turns = [speak("user", asked), speak("assistant", answered)]
    if item.get("system"):
        turns.insert(0, speak("system", as_text(item["system"], f"{place}.system")))
    return turns


def _turn(item: Mapping[str, Any], place: str) -> Message:
    role_key = "role" if item.get("role") is not None or "from" not in item else "from"
    said = item.get(role_key)
    if said is None:
        raise DataError(f"field '{place}.{role_key}' is missing.")
    if not isinstance(said, str) or said not in ROLES:
        raise DataError(f"field '{place}.{role_key}': unknown role {said!r}. {did_you_mean(str(said), ROLES)}")
    content_key = "value" if item.get("content") is None and "value" in item else "content"
    shown = "value" if role_key == "from" and content_key not in item else content_key
    turn: Message = {"role": ROLES[said], "content": _content(item, content_key, f"{place}.{shown}")}
    calls = _calls(item, said, turn["content"], place)
    if calls is not None:
        turn["tool_calls"] = calls
        if said in _CALLS:
            turn["content"] = ""
    for key in THOUGHTS:
        if item.get(key) is not None:
            turn[key] = as_text(item[key], f"{place}.{key}")
    taken = {"role", "from", "content", "value", "tool_calls", "function_call", *THOUGHTS, *_FLAGS}
    turn.update((key, value) for key, value in item.items() if key not in taken and value is not None)
    needs_content = turn["role"] != "assistant" or not (calls or any(key in turn for key in THOUGHTS))
    if turn["content"] is None and needs_content:
        raise DataError(f"field '{place}.{shown}' is missing.")
    return turn


def _content(item: Mapping[str, Any], key: str, place: str) -> str | None:
    """Text, or the texts of a list of parts; None for null."""
    value = item.get(key)
    if value is None or isinstance(value, str):
        return None if value is None else encodable(value, place)
    if not isinstance(value, list):
        return as_text(value, place, empty=True)
    if any(not isinstance(part, dict) for part in value):
        raise DataError(f"field '{place}': a list where text, or a list of parts of type 'text', is needed.")
    texts = []
    for rank, part in enumerate(value):
        if part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(encodable(part["text"], f"{place}[{rank}].text"))
        else:
            raise DataError(
                f"field '{place}[{rank}]': a part of type {part.get('type', 'text')!r} without text. "
                "Only parts of type 'text' can be learnt here: leave out rows with others."
            )
    return "".join(texts)


def _calls(item: Mapping[str, Any], said: str, content: str | None, place: str) -> list[Any] | None:
    """The calls of tools that a turn makes, as a list; None when it makes none."""
    if item.get("tool_calls"):
        calls = from_json(item["tool_calls"], f"{place}.tool_calls", "a JSON list of calls")
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise DataError(f"field '{place}.tool_calls': {kind_of(calls)} where a list of calls is needed.")
        return _functions(calls, f"{place}.tool_calls")
    if item.get("function_call"):  # OpenAI's first form
        called = from_json(item["function_call"], f"{place}.function_call", "the JSON of a call")
        if not isinstance(called, dict):
            raise DataError(f"field '{place}.function_call': {kind_of(called)} where a call, an object, is needed.")
        return [{"type": "function", "function": called}]
    if said not in _CALLS:
        return None
    try:
        called = json.loads(content or "")
    except (ValueError, RecursionError):
        return None  # a call in the words of some model: it is taught as it is written
    found = called if isinstance(called, list) else [called]
    if is_deep(found) or not all(isinstance(call, dict) and "name" in call for call in found):
        return None
    return [{"type": "function", "function": call} for call in found]


def _functions(items: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """Calls or tools, of which a `function` that is null is left out. DataError for one that is no object."""
    for rank, item in enumerate(items):
        function = item.get("function")
        if function is not None and not isinstance(function, dict):
            raise DataError(
                f"field '{place}[{rank}].function': {kind_of(function)} where an object with a name is needed."
            )
    return [{key: value for key, value in item.items() if key != "function" or value is not None} for item in items]


def _flags(item: Mapping[str, Any], place: str) -> tuple[list[str], list[str]]:
    """The flags by which a message counts in the loss, or those by which it does not. Null says nothing."""
    learnt: list[str] = []
    kept_out: list[str] = []
    for key, when_learnt in _FLAGS.items():
        value = item.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            fraction = isinstance(value, int | float) and not isinstance(value, bool)
            why = "weights other than 0 and 1 are not supported" if fraction else "it is neither true nor false"
            raise DataError(f"field '{place}.{key}': {value!r}: {why}. Write true, false, 0 or 1, or leave it out.")
        (learnt if bool(value) == when_learnt else kept_out).append(f"{key}: {to_json(value)}")
    if learnt and kept_out:
        raise DataError(f"{place}: {learnt[0]} and {kept_out[0]} contradict each other. Leave one of them.")
    return learnt, kept_out


def read_tools(value: Any, name: str) -> tuple[Any, ...] | None:
    """Descriptions of tools: a list of objects, or its JSON text. None when there are none."""
    if value is None or value in ("", []):
        return None
    found = from_json(value, name, "a JSON list of tools")
    if found is None:
        return None
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise DataError(f"field {name!r}: {kind_of(found)} where a list of tools is needed.")
    if name == "functions":  # OpenAI's first form
        found = [tool if "function" in tool else {"type": "function", "function": tool} for tool in found]
    return tuple(_functions(found, name)) or None


def from_json(value: Any, name: str, wanted: str) -> Any:
    """A value, or what its text says as JSON: the only way for CSV."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            python = " It is in Python's own notation: write it by json.dumps." if _PYTHON.match(value) else ""
            raise DataError(f"field {name!r}: text that is not {wanted}.{python}") from None
    if is_deep(found):
        raise DataError(f"field {name!r}: lists and objects in each other more than {limits.ROW_LEVELS} levels deep.")
    return found


def is_deep(value: Any) -> bool:
    """Whether lists and objects lie in each other deeper than a row may have them: what writes them calls itself."""
    level = [value]
    for _ in range(limits.ROW_LEVELS + 1):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [item for items in inner for item in items]
        if not level:
            return False
    return True


def as_text(value: Any, name: str, *, empty: bool = False) -> str:
    """A field's text; a number as JSON writes it. Raises DataError for anything else, and for text without content."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return to_json(value)
    if not isinstance(value, str):
        raise DataError(f"field {name!r}: {kind_of(value)} where text is needed.")
    if not (empty or value.strip()):
        raise DataError(f"field {name!r} is empty.")
    return encodable(value, name)


def encodable(value: str, name: str) -> str:
    """Text that UTF-8 can hold: broken bytes of a CSV and lone halves of a \\u pair cannot be tokenised."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        what = f"byte 0x{code - 0xDC00:02x} is not UTF-8" if 0xDC80 <= code <= 0xDCFF else f"half a pair, \\u{code:04x}"
        raise DataError(f"field {name!r}: {what} (character {error.start + 1}).") from None
    return value


def kind_of(value: Any) -> str:
    """A value's type in words."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    if value is None:
        return "null"
    return names.get(type(value), type(value).__name__)
