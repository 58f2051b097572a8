"""A row as one text, with the places in it that are supervised. No tokens yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.compiled import apply_template, rendering
from lowregret.data.chat.forms import forms
from lowregret.data.chat.places import CALL, REASONING, Found, Place, find_places, find_stand_in
from lowregret.data.chat.template import ChatFormat
from lowregret.data.sources import Row
from lowregret.data.turns import Message, has_thought, says_something
from lowregret.errors import DataError
from lowregret.strict_json import to_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNMARKED = "an assistant turn that the chat template does not mark by {% generation %}: not supervised"
EMPTY = "an empty assistant turn: not supervised"
LOOKS_RENDERED = (
    "control tokens of the chat template in a content: the template wraps it a second time. If the data are rendered "
    "already, give whole chats as `text`, or prompts that end where the answer begins"
)
RENDERED = "a prompt that is rendered already: taken as it is, without the chat template"
RENDERED_TEXT = "control tokens of the chat template: taken as rendered already, every token but the first supervised"

ESCAPED = (
    "arguments of a tool call that are JSON text, which the chat template quotes once more: "
    "give them as objects if the base is to write them as objects"
)


def left_out(parts: Sequence[str]) -> str:
    """The remark on a turn of which the template does not write all."""
    return f"{' and '.join(parts)} of an assistant turn left out by the chat template: not supervised"


def kept_out(flag: str) -> str:
    """The remark on a turn that a flag of the data keeps out of the loss."""
    return f"an assistant turn kept out of the loss by `{flag}`"


@dataclass(frozen=True)
class Rendering:
    """The text of an example and what of it is supervised."""

    text: str
    places: tuple[Place, ...] | None
    """Of the supervised turns, in order; None when everything is supervised."""
    wants_bos: bool
    """Whether BOS goes in front unless the text begins with it."""
    remarks: tuple[str, ...] = ()
    """What a user should know of this row, each as often as it occurs."""


def render(row: Row, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> Rendering:
    """The text of a row and the places to supervise.

    Raises DataError (without a place) when the template refuses the row or an assistant turn cannot be found in it.
    """
    if row.messages is None:
        return _text(row.text or "", form)
    if form.template is None:
        return _join(row, form)
    whole = _rendered_pair(row, form)
    return whole or _chat(row, tokenizer, form)


def _text(text: str, form: ChatFormat) -> Rendering:
    """Text of the user's: with EOS where nothing ends it yet."""
    rendered = any(token in text for token in form.control_tokens)
    return Rendering(text, None, wants_bos=form.adds_bos, remarks=(RENDERED_TEXT,) * rendered)


def _rendered_pair(row: Row, form: ChatFormat) -> Rendering | None:
    """A prompt that ends as the template's own prompts do, and its answer."""
    if row.messages is None or [turn["role"] for turn in row.messages] != ["user", "assistant"]:
        return None
    prompt, answer = (turn["content"] or "" for turn in row.messages)
    ends = {form.shape.bridge.rstrip(), form.shape.header.rstrip()} - {""}
    if not any(token in prompt for token in form.control_tokens) or not prompt.rstrip().endswith(tuple(ends)):
        return None
    closing = form.ending.written.rstrip() or form.eos_token
    if not answer.rstrip().endswith(closing):
        answer += closing
    place = Place(len(prompt), len(prompt) + len(answer))
    return Rendering(prompt + answer, (place,), wants_bos=form.adds_bos, remarks=(RENDERED,))


def _chat(row: Row, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> Rendering:
    """By the template: in the form of the row's messages of which it writes the most."""
    best: Rendering | None = None
    first: DataError | None = None
    for as_parts in (False, True):  # templates of models that see take no plain text
        for messages in forms(row.messages or ()):
            try:
                found, lost = _follow(messages, row, tokenizer, form, as_parts)
            except DataError as error:
                first = first or error
                continue
            if not lost:
                return found
            best = best or found
        if best is not None:
            return best
    raise first or DataError("holds no turn.")


def _follow(
    messages: list[Message], row: Row, tokenizer: PreTrainedTokenizerBase, form: ChatFormat, as_parts: bool
) -> tuple[Rendering, bool]:
    """The rendering of these messages, and whether a part of them was left out of it."""
    template = form.template_for(row.tools)
    assert template is not None

    def shaped(turns: list[Message]) -> list[Message]:
        return [in_parts(turn) for turn in turns] if as_parts else turns

    def write(turns: list[Message], *, add_generation_prompt: bool = False) -> str:
        return apply_template(
            form.tokens, template, shaped(turns), row.tools, add_generation_prompt=add_generation_prompt
        )

    text = write(messages)
    turns = [rank for rank, turn in enumerate(messages) if turn["role"] == "assistant"]
    wanted = [rank for rank in turns if rank >= row.prompt_turns]
    saying = [rank for rank in wanted if says_something(messages[rank])]
    found = find_places(text, messages, saying, write, form)
    generated = _generated(tokenizer, template, shaped(messages), row.tools) if form.marks_generation else None
    if found is None and generated is not None and len(generated) == len(turns):
        found = {rank: Found(place) for rank, place in zip(turns, generated, strict=True)}
    if found is None:
        found = {rank: find_stand_in(text, messages, rank, write) for rank in saying}
    remarks = [EMPTY] * (len(wanted) - len(saying))
    places = []
    for rank in saying:
        place, lost = found[rank].place, found[rank].lost
        if lost:
            remarks.append(left_out(lost))
        elif rank in row.skipped:
            remarks.append(kept_out(row.skipped[rank]))
        elif place is not None and generated is not None:
            own = [block for block in generated if block.begin < place.end and block.end > place.begin]
            places.extend(own)
            remarks.extend([UNMARKED] * (not own))
        elif place is not None:
            places.append(place)
    lost_context = list(left_out_before(text, messages, row.tools))
    remarks.extend(lost_context)
    texts = [call.get("function", call).get("arguments") for turn in messages for call in turn.get("tool_calls") or ()]
    if any(isinstance(given, str) and given and to_json(given, ensure_ascii=False) in text for given in texts):
        remarks.append(ESCAPED)
    if any(token in (turn["content"] or "") for turn in messages for token in form.control_tokens):
        remarks.append(LOOKS_RENDERED)
    rendering = Rendering(text, tuple(places), wants_bos=False, remarks=tuple(remarks))
    return rendering, bool(lost_context) or any(found[rank].lost for rank in saying)


def in_parts(turn: Message) -> Message:
    """With its content as a list of one part."""
    return turn if turn["content"] is None else {**turn, "content": [{"type": "text", "text": turn["content"]}]}


def left_out_before(text: str, messages: Sequence[Message], tools: Sequence[Any] | None) -> Iterator[str]:
    """What the answers are given to and the template leaves out: turns of others, and tools."""
    position = 0
    for turn in messages:
        content = (turn["content"] or "").strip()
        if turn["role"] == "assistant" or not content:
            continue
        place = text.find(content, position)
        if place >= 0:
            position = place
        elif content not in text and to_json(content, ensure_ascii=False)[1:-1] not in text:
            yield f"a turn of role {turn['role']} left out by the chat template: the answers are learnt without it"
    named = [(tool.get("function") or tool).get("name") for tool in tools or ()]
    if any(isinstance(name, str) and name not in text for name in named):
        yield "tools left out by the chat template: the answers are learnt without them"


def _generated(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: list[Message], tools: Sequence[Any] | None
) -> list[Place]:
    """The template's own {% generation %} blocks."""
    with rendering():
        marked: Any = tokenizer.apply_chat_template(
            messages,
            tools=list(tools) if tools else None,
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
        )
    blocks: list[Place] = []
    inside = False
    for chosen, (begin, end) in zip(marked["assistant_masks"], marked["offset_mapping"], strict=True):
        if chosen and inside:
            blocks[-1] = Place(blocks[-1].begin, end)
        elif chosen:
            blocks.append(Place(begin, end))
        inside = bool(chosen)
    return blocks


def _join(row: Row, form: ChatFormat) -> Rendering:
    """Without a template: contents joined by blank lines, EOS after each assistant turn."""
    text = ""
    places = []
    remarks = []
    for rank, turn in enumerate(row.messages or ()):
        text += "\n\n" if rank else ""
        begin = len(text)
        text += turn["content"] or ""
        lost = [part for part, there in ((CALL, turn.get("tool_calls")), (REASONING, has_thought(turn))) if there]
        if turn["role"] != "assistant":
            continue
        if rank >= row.prompt_turns:
            if not says_something(turn):
                remarks.append(EMPTY)
            elif lost:
                remarks.append(left_out(lost))
            elif rank in row.skipped:
                remarks.append(kept_out(row.skipped[rank]))
            else:
                places.append(Place(begin, len(text)))
        text += form.eos_token
    return Rendering(text, tuple(places), wants_bos=form.adds_bos, remarks=tuple(remarks))
