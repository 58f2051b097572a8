"""Columns and what they mean: which of the known schemas a row has, and its chat turns or text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lowregret.errors import DataError, did_you_mean

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


@dataclass(frozen=True)
class RowContent:
    """What a row holds: chat turns or text."""

    messages: tuple[Message, ...] | None
    text: str | None
    prompt_turns: int = 0
    """So many turns at the start are a prompt: none of them is supervised, whoever speaks."""
    ignored: tuple[str, ...] = ()
    """Keys of its messages that are neither role nor content."""


@dataclass(frozen=True)
class ColumnSchema:
    """Columns that rows may have."""

    kind: str
    """messages, conversations, pair, instruction or text."""
    columns: tuple[str, ...]
    """The columns every row must have."""
    optional: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The columns as a reader sees them, such as `question -> answer`."""
        if self.kind == "pair":
            return " -> ".join(self.columns)
        if self.kind == "instruction":
            return "instruction (+ input) -> output"
        return self.columns[0]


KNOWN_SCHEMAS = (
    ColumnSchema("messages", ("messages",)),
    ColumnSchema("conversations", ("conversations",)),
    ColumnSchema("pair", ("prompt", "completion")),
    ColumnSchema("pair", ("question", "answer")),
    ColumnSchema("instruction", ("instruction", "output"), ("input",)),
    ColumnSchema("text", ("text",)),
)


def detect(
    row: Mapping[str, Any], prompt_field: str | None = None, completion_field: str | None = None
) -> ColumnSchema:
    """The schema of this row: the columns named, else the first known schema it fits.

    Raises DataError that lists the columns found and the valid choices.
    """
    if (prompt_field is None) != (completion_field is None):
        raise DataError("--prompt-field and --completion-field go together: name both or neither.")
    if prompt_field is not None and completion_field is not None:
        for flag, name in (("--prompt-field", prompt_field), ("--completion-field", completion_field)):
            if name not in row:
                raise DataError(f"no column {name!r}, which {flag} names. {did_you_mean(name, map(str, row))}")
        return ColumnSchema("pair", (prompt_field, completion_field))
    present = [schema for schema in KNOWN_SCHEMAS if all(name in row for name in schema.columns)]
    # A table of mixed rows has every column everywhere: prefer one that is filled in here.
    filled = [schema for schema in present if all(row[name] is not None for name in schema.columns)]
    if not present:
        valid = "; ".join("+".join(schema.columns) for schema in KNOWN_SCHEMAS)
        found = ", ".join(map(str, row)) or "none"
        raise DataError(
            f"no known columns. Found: {found}. Valid: {valid}. Rename the columns, or name yours with "
            "--prompt-field and --completion-field."
        )
    return (filled or present)[0]


def convert(schema: ColumnSchema, row: Mapping[str, Any]) -> RowContent:
    """The content of a row in this schema. Raises DataError (without a place) that names the field at fault."""
    if schema.kind == "text":
        return RowContent(None, _text(row, "text"))
    if schema.kind in ("messages", "conversations"):
        name = schema.columns[0]
        messages, ignored = _messages(_filled(row, name), name, sharegpt=schema.kind == "conversations")
        _require_assistant(messages, name)
        return RowContent(messages, None, 0, ignored)
    if schema.kind == "instruction":
        prompt = _text(row, "instruction")
        given = row.get("input")
        if given is not None and not isinstance(given, str):
            raise DataError(f"field 'input': {_kind(given)} where text is needed.")
        if given and given.strip():
            prompt += "\n\n" + _encodable(given, "input")
        return RowContent((_turn("user", prompt), _turn("assistant", _text(row, "output"))), None, 1)
    return _pair(schema, row)


def _pair(schema: ColumnSchema, row: Mapping[str, Any]) -> RowContent:
    prompt_field, completion_field = schema.columns
    prompt, ignored = _turns(row, prompt_field, "user")
    completion, more = _turns(row, completion_field, "assistant")
    _require_assistant(completion, completion_field)
    return RowContent((*prompt, *completion), None, len(prompt), tuple(dict.fromkeys((*ignored, *more))))


def _turns(row: Mapping[str, Any], name: str, role: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """A field that is text, spoken by `role`, or a list of messages."""
    value = _filled(row, name)
    if isinstance(value, list):
        return _messages(value, name, sharegpt=False)
    return (_turn(role, _text(row, name)),), ()


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _messages(value: Any, name: str, *, sharegpt: bool) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    if isinstance(value, str):  # the only way for CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"field {name!r}: text that is not a JSON list of messages.") from None
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _kind(value)
        raise DataError(f"field {name!r}: {found} where a list of messages is needed.")
    ignored: dict[str, None] = {}
    messages: list[Message] = []
    for rank, item in enumerate(value):
        place = f"{name}[{rank}]"
        if not isinstance(item, dict):
            raise DataError(f"field {place!r}: {_kind(item)} where an object with role and content is needed.")
        from_value = sharegpt and "from" in item
        role_key, content_key = ("from", "value") if from_value else ("role", "content")
        role = item.get(role_key)
        if role is None:
            raise DataError(f"field '{place}.{role_key}' is missing.")
        known: Mapping[str, str] = _SHAREGPT_ROLES if from_value else {spoken: spoken for spoken in ROLES}
        if not isinstance(role, str) or role not in known:
            raise DataError(f"field '{place}.{role_key}': unknown role {role!r}. {did_you_mean(str(role), known)}")
        content = item.get(content_key)
        if content is None:
            raise DataError(f"field '{place}.{content_key}' is missing.")
        if not isinstance(content, str):
            raise DataError(f"field '{place}.{content_key}': {_kind(content)} where text is needed.")
        messages.append(_turn(known[role], _encodable(content, f"{place}.{content_key}")))
        others = (key for key, held in item.items() if key not in (role_key, content_key) and held is not None)
        ignored.update(dict.fromkeys(f"{name}[].{key}" for key in others))
    return tuple(messages), tuple(ignored)


def _require_assistant(messages: tuple[Message, ...], name: str) -> None:
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in messages):
        raise DataError(f"field {name!r}: no assistant turn with content, so there is nothing to learn from.")


def _filled(row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise DataError(f"field {name!r} is missing.")
    return row[name]


def _text(row: Mapping[str, Any], name: str) -> str:
    value = _filled(row, name)
    if not isinstance(value, str):
        raise DataError(f"field {name!r}: {_kind(value)} where text is needed.")
    if not value.strip():
        raise DataError(f"field {name!r} is empty.")
    return _encodable(value, name)


def _encodable(value: str, name: str) -> str:
    """Text that UTF-8 can hold: broken bytes of a CSV and lone halves of a \\u pair cannot be tokenised."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        what = f"byte 0x{code - 0xDC00:02x} is not UTF-8" if 0xDC80 <= code <= 0xDCFF else f"half a pair, \\u{code:04x}"
        raise DataError(f"field {name!r}: {what} (character {error.start + 1}).") from None
    return value


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
