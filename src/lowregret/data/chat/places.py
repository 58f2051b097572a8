"""Where a chat template put what a turn says.

The chat is written a second time with marks in its assistant turns: before and after each content, before each thought
and in each call of a tool. Without its marks that text must be the first one again; then the marks say, for all turns
at once, where each part stands, and a mark that is missing says that the template left its part out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lowregret.data.chat.template import ChatFormat
from lowregret.data.turns import THOUGHTS, Message
from lowregret.errors import DataError


class Write(Protocol):
    """A chat as the template writes it."""

    def __call__(self, turns: list[Message], /, *, add_generation_prompt: bool = False) -> str: ...


CONTENT, REASONING, CALL = "the content", "the reasoning", "a tool call"
"""The parts of a turn."""

NOT_FOUND = (
    "messages[{}]: cannot be found in what the chat template makes of this row. "
    "Use a template that writes the content of assistant turns as it is, or marks it with {{% generation %}}."
)

_THINK_BEGIN, _THINK_END = "<think>", "</think>"
_EMPTY_THOUGHT = re.compile(r"\s*(<think>)?\s*</think>\s*")
_ARGUMENT = re.compile(r':\s*"')


@dataclass(frozen=True)
class Place:
    """Where a turn stands in a text: [begin, end) in characters."""

    begin: int
    end: int
    limit: int | None = None
    """When given, the turn goes on past `end`, up to the token that ends a turn, which comes before `limit`."""


@dataclass(frozen=True)
class Found:
    """A turn in a text."""

    place: Place | None
    lost: tuple[str, ...] = ()
    """Parts of it that the template left out."""


def find_places(
    text: str, messages: Sequence[Message], wanted: Sequence[int], write: Write, form: ChatFormat
) -> dict[int, Found] | None:
    """Where `text`, the template's, has each of the wanted turns. None when the template does not bear marks."""
    if not wanted:
        return {}
    stem, chosen = _unused("lowregret", text), set(wanted)
    for inside in (False, True):  # some templates trim contents: then the marks go inside of the spaces around them
        marker = _Marker(stem, inside)
        marked = [marker.mark(turn, rank) if rank in chosen else turn for rank, turn in enumerate(messages)]
        try:
            clean, positions = marker.read(write(marked))
        except DataError:
            continue
        twice = any(
            len(found) > 1 and part != CALL for (_, part, _), found in zip(marker.parts, positions, strict=True)
        )
        if clean == text and not twice:
            return dict(_found(text, messages, wanted, marker.parts, positions, write, form))
    return None


class _Marker:
    """Puts numbered marks into turns and finds them again."""

    def __init__(self, stem: str, inside: bool) -> None:
        self.stem = stem
        self.inside = inside
        self.parts: list[tuple[int, str, bool]] = []
        """Of each mark, by its number: the turn, the part, and whether it stands at that part's end."""

    def mark(self, turn: Message, rank: int) -> Message:
        """The turn with marks in all that it says."""
        marked = dict(turn)
        for key in THOUGHTS:
            if isinstance(turn.get(key), str) and turn[key].strip():
                marked[key] = self._begin(turn[key], rank, REASONING)
        content = turn["content"] or ""
        opened, closed = content.find(_THINK_BEGIN), content.rfind(_THINK_END)
        thought = ""
        if closed >= 0:
            start = opened + len(_THINK_BEGIN) if 0 <= opened < closed else 0
            inner = content[start:closed]
            if inner.strip():
                inner = self._begin(inner, rank, REASONING)
            thought = content[:start] + inner + _THINK_END
            content = content[closed + len(_THINK_END) :]
        if content.strip():
            content = self._begin(content, rank, CONTENT)
            kept = len(content.rstrip()) if self.inside or closed >= 0 else len(content)
            content = content[:kept] + self._next(rank, CONTENT, True) + content[kept:]
        if turn["content"] is not None:
            marked["content"] = thought + content
        if turn.get("tool_calls"):
            marked["tool_calls"] = [self._call(call, rank) for call in turn["tool_calls"]]
        return marked

    def read(self, marked: str) -> tuple[str, list[list[int]]]:
        """The text without its marks, and where in it each mark stood."""
        positions: list[list[int]] = [[] for _ in self.parts]
        pieces, last, length = [], 0, 0
        for mark in re.finditer(rf"{self.stem}(\d+)q", marked):
            pieces.append(marked[last : mark.start()])
            length += len(pieces[-1])
            positions[int(mark[1])].append(length)
            last = mark.end()
        return "".join([*pieces, marked[last:]]), positions

    def _next(self, rank: int, part: str, at_end: bool = False) -> str:
        self.parts.append((rank, part, at_end))
        return f"{self.stem}{len(self.parts) - 1}q"

    def _begin(self, text: str, rank: int, part: str) -> str:
        spaces = len(text) - len(text.lstrip()) if self.inside or part == REASONING else 0
        return text[:spaces] + self._next(rank, part) + text[spaces:]

    def _call(self, call: Mapping[str, Any], rank: int) -> dict[str, Any]:
        """With a mark in its name, and in the first of its arguments that is text."""
        held = call.get("function")
        holder = dict(held) if isinstance(held, Mapping) else dict(call)
        if isinstance(holder.get("name"), str):
            holder["name"] = self._next(rank, CALL) + holder["name"]
        arguments = holder.get("arguments")
        if isinstance(arguments, str) and _ARGUMENT.search(arguments):
            holder["arguments"] = _ARGUMENT.sub(lambda m: m[0] + self._next(rank, CALL), arguments, count=1)
        elif isinstance(arguments, Mapping):
            key = next((key for key, value in arguments.items() if isinstance(value, str)), None)
            if key is not None:
                holder["arguments"] = {**arguments, key: self._next(rank, CALL) + arguments[key]}
        return {**call, "function": holder} if isinstance(held, Mapping) else holder


def _found(
    text: str,
    messages: Sequence[Message],
    wanted: Sequence[int],
    parts: Sequence[tuple[int, str, bool]],
    positions: Sequence[list[int]],
    write: Write,
    form: ChatFormat,
) -> Iterator[tuple[int, Found]]:
    """Each wanted turn, by the marks in it."""
    marks: dict[int, list[tuple[int, str, bool]]] = {rank: [] for rank in wanted}
    lost: dict[int, dict[str, None]] = {rank: {} for rank in wanted}
    for (rank, part, at_end), places in zip(parts, positions, strict=True):
        marks[rank].extend((place, part, at_end) for place in places[:1])  # a tool's name may stand at its answer too
        if not places:
            lost[rank][part] = None
    before = 0
    for rank in wanted:
        if not marks[rank] and CONTENT in lost[rank]:
            raise DataError(NOT_FOUND.format(rank))
        if not marks[rank]:
            yield rank, Found(None, tuple(lost[rank]))
            continue
        (first, part, _), (last, _, closed) = min(marks[rank]), max(marks[rank])
        thinks = any(part == REASONING for _, part, _ in marks[rank])
        begin = _begin(text, before, first, thinks, form)
        if begin is None and part == CONTENT:
            begin = first
        if begin is None:  # something comes before the first mark that no header tells apart
            asked = write(list(messages[:rank]), add_generation_prompt=True)
            if not text.startswith(asked) or len(asked) > first:
                raise DataError(NOT_FOUND.format(rank))
            begin = len(asked)
        following = messages[rank + 1]["content"] if rank + 1 < len(messages) else None
        limit = None
        if not closed:
            limit = text.find(following.strip(), last) if following and following.strip() else len(text)
            limit = len(text) if limit < 0 else limit
        yield rank, Found(Place(begin, last, limit), tuple(lost[rank]))
        before = last


def _begin(text: str, before: int, first: int, thinks: bool, form: ChatFormat) -> int | None:
    """Where the turn begins whose first mark is at `first`: past its header and an empty thought; None if unclear.

    What a generation prompt writes is not the turn's, nor is the empty thought that some templates add; what else they
    put before the content is.
    """
    shape, closing = form.shape, form.ending.written.strip()
    begin = text.rfind(shape.header, before, first) if shape.header else -1
    if begin >= 0 and not (closing and closing in text[begin:first]):
        begin += len(shape.prompt if text.startswith(shape.prompt, begin, first) else shape.header)
        empty = None if thinks else _EMPTY_THOUGHT.match(text, begin, first)
        return empty.end() if empty else begin
    thought = text.rfind(_THINK_BEGIN, before, first) if thinks else -1
    return None if thought < 0 else thought


def find_stand_in(text: str, messages: Sequence[Message], rank: int, write: Write) -> Found:
    """Where `text` has the content of one turn, by a chat with another content in its place.

    For templates that look into contents. Raises DataError when the turn cannot be found like this either.
    """
    content = messages[rank]["content"] or ""
    stand_in, thought = _unused("lowregret", text), _unused("thought", text)
    lost: tuple[str, ...] = ()
    place = None
    if _THINK_END in content:
        probe = write(_with(messages, rank, f"{_THINK_BEGIN}\n{thought}\n{_THINK_END}\n\n{stand_in}"))
        begin = probe.find(stand_in)
        if thought in probe:
            opened = probe.rfind(_THINK_BEGIN, 0, probe.index(thought))
            begin = opened if opened >= 0 else probe.index(thought)
        else:
            lost = (REASONING,)
        place = _between(text, probe, begin, probe.find(stand_in), stand_in)
    if place is None and content.strip():
        probe = write(_with(messages, rank, stand_in))
        place = _between(text, probe, probe.find(stand_in), probe.find(stand_in), stand_in)
    if place is None:
        raise DataError(NOT_FOUND.format(rank))
    return Found(place, lost)


def _between(text: str, probe: str, begin: int, place: int, stand_in: str) -> Place | None:
    """The part of `text` between what comes before `begin` and after the stand-in at `place` in the probe."""
    if place < 0:
        return None
    before, after = probe[:begin], probe[place + len(stand_in) :]
    end = len(text) - len(after)
    if begin > end or not text.startswith(before) or not text.endswith(after):
        return None
    return Place(begin, end)


def _with(messages: Sequence[Message], rank: int, content: str) -> list[Message]:
    return [*messages[:rank], {**messages[rank], "content": content}, *messages[rank + 1 :]]


def _unused(stem: str, text: str) -> str:
    """A word that does not occur in `text`."""
    number = 0
    while f"{stem}{number}q" in text:
        number += 1
    return f"{stem}{number}q"
