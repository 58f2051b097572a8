"""Columns and what they mean: which of the known layouts a row has, and its chat turns or text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lowregret.data.turns import (
    PAIRS,
    Message,
    Turns,
    as_text,
    from_json,
    kind_of,
    read_messages,
    read_tools,
    says_messages,
    says_something,
    speak,
)
from lowregret.errors import DataError, did_you_mean

_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_INPUT = ("input", "context")
_COMPANIONS = (*_SYSTEM, "history", *_TOOLS)
"""Columns that belong to the chat wherever they stand."""


@dataclass(frozen=True)
class RowContent:
    """What a row holds: chat turns or text."""

    messages: tuple[Message, ...] | None
    text: str | None
    prompt_turns: int = 0
    """So many turns at the start are a prompt: none of them is supervised, whoever speaks."""
    tools: tuple[Any, ...] | None = None
    """What the chat may call, as the template takes it."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """Position of each assistant turn that a flag keeps out of the loss → that flag."""
    ignored: tuple[str, ...] = ()
    """Keys of its messages that are none of a message's usual ones."""


@dataclass(frozen=True)
class ColumnSchema:
    """Columns that rows may have."""

    kind: str
    """chat, preference, pair or text."""
    columns: tuple[str, ...]
    """The columns every row must have."""
    optional: tuple[str, ...] = ()
    """Columns that belong to these where a row has them."""

    def describe(self, companions: Iterable[str] = ()) -> str:
        """The columns as a reader sees them, such as `question -> answer`; with the optional ones that rows fill."""
        shown = [*self.columns]
        if self.columns[0] == "instruction":
            shown[0] = "instruction (+ input)"
        more = [name for name in companions if name not in ("input", "rejected")]
        text = " -> ".join(shown) + (f", with {', '.join(more)}" if more else "")
        return text + (" (preference data: the chosen answer is the completion)" if self.kind == "preference" else "")

    def companions(self, row: Mapping[str, Any]) -> list[str]:
        """The optional columns that this row fills."""
        return [name for name in self.optional if row.get(name) not in (None, "", [])]


def _pair_schema(prompt: str, completion: str) -> ColumnSchema:
    with_input = _INPUT if prompt in ("instruction", "question", "query") else ()
    return ColumnSchema("pair", (prompt, completion), (*with_input, *_COMPANIONS))


KNOWN_SCHEMAS = (
    *(ColumnSchema("chat", (name,), _COMPANIONS) for name in ("messages", "conversations", "conversation")),
    ColumnSchema("preference", ("prompt", "chosen"), (*_COMPANIONS, "rejected")),
    ColumnSchema("preference", ("question", "chosen"), (*_COMPANIONS, "rejected")),
    ColumnSchema("preference", ("chosen",), (*_COMPANIONS, "rejected")),
    *(_pair_schema(*pair) for pair in PAIRS),
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
        companions = tuple(name for name in _COMPANIONS if name not in (prompt_field, completion_field))
        return ColumnSchema("pair", (prompt_field, completion_field), companions)
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
        return RowContent(None, as_text(_filled(row, "text"), "text"))
    if schema.kind == "chat":
        (name,) = schema.columns
        prompt, answer = Turns(()), read_messages(_filled(row, name), name)
    elif schema.kind == "preference":
        name = "chosen"
        prompt, answer = _preference(schema, row)
    else:
        prompt, answer = _pair(schema, row)
        name = schema.columns[1]
    opening = _opening(schema, row, (*prompt.messages, *answer.messages))
    before = len(opening.messages) + len(prompt.messages)
    skipped = {**opening.skipped, **{before + rank: flag for rank, flag in answer.skipped.items()}}
    messages = (*opening.messages, *prompt.messages, *answer.messages)
    # A pair teaches its completion only, so its history is prompt; a chat teaches every answer, those of history too.
    prompt_turns = before if prompt.messages else 0
    _require_answer(messages, prompt_turns, skipped, name)
    tools = next((read_tools(row[key], key) for key in _TOOLS if key in schema.companions(row)), None)
    ignored = tuple(dict.fromkeys((*opening.others, *prompt.others, *answer.others)))
    return RowContent(messages, None, prompt_turns, tools, skipped, ignored)


def _pair(schema: ColumnSchema, row: Mapping[str, Any]) -> tuple[Turns, Turns]:
    """A prompt and its answer; lists of texts are the turns of one chat, of which every answer is learnt."""
    asked, answered = (_filled(row, name) for name in schema.columns)
    if _is_texts(asked) or _is_texts(answered):
        return Turns(()), _dialogue(schema, asked, answered)
    # One alone that begins as messages do is a text: chats may be what is asked for, or what is answered.
    chat = says_messages(asked) and says_messages(answered)
    prompt, answer = (
        _speech(row, name, who, chat) for name, who in zip(schema.columns, ("user", "assistant"), strict=True)
    )
    given = [name for name in _INPUT if name in schema.companions(row)]
    for name in given:
        text = as_text(row[name], name, empty=True)
        if text.strip():
            last = prompt.messages[-1]
            prompt = Turns((*prompt.messages[:-1], {**last, "content": f"{last['content']}\n\n{text}"}))
    return prompt, answer


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _dialogue(schema: ColumnSchema, asked: Any, answered: Any) -> Turns:
    """Questions and answers in two lists of equal length."""
    prompt_field, completion_field = schema.columns
    questions, answers = ([value] if isinstance(value, str) else value for value in (asked, answered))
    for name, value in ((prompt_field, questions), (completion_field, answers)):
        if not _is_texts(value):
            raise DataError(f"field {name!r}: {kind_of(value)} where a list of texts is needed.")
    if len(questions) != len(answers):
        raise DataError(
            f"fields {prompt_field!r} and {completion_field!r}: {len(questions)} and {len(answers)} texts, so which "
            "answers which is not known. Give as many of each."
        )
    turns: list[Message] = []
    for rank, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        turns.append(speak("user", as_text(question, f"{prompt_field}[{rank}]")))
        turns.append(speak("assistant", as_text(answer, f"{completion_field}[{rank}]")))
    return Turns(tuple(turns))


def _preference(schema: ColumnSchema, row: Mapping[str, Any]) -> tuple[Turns, Turns]:
    """The prompt, and the chosen answer; where `chosen` is the whole chat, its last turn is the answer."""
    chosen = _speech(row, "chosen", "assistant", chat=True)
    if chosen.messages[0]["role"] != "assistant":
        last = len(chosen.messages) - 1
        skipped = {rank - last: flag for rank, flag in chosen.skipped.items() if rank == last}
        return Turns(chosen.messages[:last]), Turns(chosen.messages[last:], skipped, chosen.others)
    if schema.columns[0] == "chosen":
        raise DataError(
            "field 'chosen': an answer without its prompt. Add a column 'prompt', or give the whole chat as a list of "
            "messages."
        )
    return _speech(row, schema.columns[0], "user", chat=True), chosen


def _speech(row: Mapping[str, Any], name: str, role: str, chat: bool) -> Turns:
    """A field that is text, spoken by `role`, or a list of messages; with `chat` that may be text, too, as in CSV."""
    value = _filled(row, name)
    if isinstance(value, list) or (chat and says_messages(value)):
        return read_messages(value, name)
    return Turns((speak(role, as_text(value, name)),))


def _opening(schema: ColumnSchema, row: Mapping[str, Any], turns: Sequence[Message]) -> Turns:
    """What goes before the turns of a row: its system prompt and its history."""
    named = schema.companions(row)
    history = _history(row["history"]) if "history" in named else Turns(())
    opening = list(history.messages)
    for name in _SYSTEM:
        if name not in named:
            continue
        system = as_text(row[name], name, empty=True)
        own = [turn["content"] for turn in (*opening, *turns) if turn["role"] in ("system", "developer")]
        if own and own[0] != system:
            raise DataError(f"field {name!r}: the messages have another system prompt of their own. Leave one of them.")
        if system.strip() and not own:
            opening.insert(0, speak("system", system))
    before = len(opening) - len(history.messages)
    return Turns(tuple(opening), {before + rank: flag for rank, flag in history.skipped.items()}, history.others)


def _history(value: Any) -> Turns:
    """Turns that went before: messages, or a list of [question, answer]."""
    value = from_json(value, "history", "a JSON list of [question, answer]")
    if value in (None, []):  # as text, for CSV
        return Turns(())
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return read_messages(value, "history")
    pairs = isinstance(value, list) and all(isinstance(item, list | tuple) and len(item) == 2 for item in value)
    if not pairs:
        raise DataError(f"field 'history': {kind_of(value)} where a list of [question, answer] is needed.")
    turns = []
    for rank, (question, answer) in enumerate(value):
        turns.append(speak("user", as_text(question, f"history[{rank}][0]")))
        turns.append(speak("assistant", as_text(answer, f"history[{rank}][1]")))
    return Turns(tuple(turns))


def _require_answer(messages: Sequence[Message], prompt_turns: int, skipped: Mapping[int, str], name: str) -> None:
    answers = [rank for rank, turn in enumerate(messages) if turn["role"] == "assistant" and rank >= prompt_turns]
    saying = [rank for rank in answers if says_something(messages[rank])]
    if not saying:
        raise DataError(f"field {name!r}: no assistant turn with content, so there is nothing to learn from.")
    if all(rank in skipped for rank in saying):
        raise DataError(
            f"field {name!r}: {skipped[saying[0]]} keeps every assistant turn out of the loss, so there is nothing to "
            "learn from."
        )


def _filled(row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise DataError(f"field {name!r} is missing.")
    return row[name]
