"""What a tokenizer says about chats: its template, its special tokens, what it puts around a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.compiled import FIXED_DATE, apply_template, compile_template, with_fixed_date
from lowregret.data.chat.ending import Ending, find_ending
from lowregret.data.turns import Message, speak
from lowregret.errors import DataError, ModelError, did_you_mean
from lowregret.foreign import boundary
from lowregret.strict_json import to_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ASKED, _ANSWERED = "lowregret asks", "lowregret answers"
"""The turns of the chat by which a template is tried."""


@dataclass(frozen=True)
class TurnShape:
    """What a template puts around the content of an assistant turn, as seen in a chat of two turns."""

    header: str = ""
    """What it writes between a question and the answer for the answer's sake: its generation prompt, as far as a full
    chat has it too. Empty when the template has no generation prompt."""
    prompt: str = ""
    """The generation prompt, whole."""
    bridge: str = ""
    """From the end of a question to where the answer begins to be generated: how a rendered prompt ends."""


@dataclass(frozen=True)
class ChatFormat:
    """What a tokenizer says about chats and special tokens."""

    template: str | None
    """Jinja, with any call for today's date fixed; None when the tokenizer has none."""
    marks_generation: bool
    """The template marks its assistant tokens itself, with {% generation %}."""
    dated: bool
    adds_bos: bool
    bos_id: int | None
    eos_id: int | None
    eos_token: str
    special_ids: frozenset[int]
    tokens: Mapping[str, str]
    """Special tokens by the names that templates know them by."""
    ending: Ending
    """What ends an assistant's turn."""
    tool_template: str | None = None
    """The template of chats with tools, where the tokenizer has one of its own for them."""
    shape: TurnShape = TurnShape()
    closing_ids: frozenset[int] = frozenset()
    """Tokens that end a turn: that of `ending`, EOS, and what the template writes after a call of a tool."""
    control_tokens: frozenset[str] = frozenset()
    """Special tokens that the template writes: in a content they look like a rendered chat."""

    def template_for(self, tools: Sequence[Any] | None) -> str | None:
        """The template of a chat, by whether it has tools."""
        return self.tool_template if tools and self.tool_template is not None else self.template

    def reads(self, name: str) -> bool:
        """Whether a template has the key of this column of messages, `messages[].KEY`, among its words."""
        key = name.rpartition("[].")[2] if "[]." in name else ""
        templates = [template for template in (self.template, self.tool_template) if template]
        return bool(key) and any(re.search(rf"\b{re.escape(key)}\b", template) for template in templates)

    def description(self, texts: bool) -> str:
        """In words, for rows of text or of chat turns."""
        ends = "EOS" if self.eos_id is not None else "no EOS, for the tokenizer has none"
        bos = "BOS, " if self.adds_bos else ""
        if texts:
            return f"no template: {bos}the text, {ends}; every token but the first is supervised"
        if self.template is None:
            return (
                f"the tokenizer has no chat template: {bos}turns joined by blank lines, {ends} after each assistant "
                "turn; assistant contents and EOS are supervised"
            )
        how = "as its {% generation %} blocks mark them" if self.marks_generation else "content and end of turn"
        dated = f"; its date is fixed at {FIXED_DATE.isoformat()}" if self.dated else ""
        return f"the tokenizer's chat template; assistant turns are supervised ({how}){dated}"


def chat_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Ask a tokenizer once.

    Raises ModelError when it gives no character offsets, has templates but no default, or one that is no template.
    """
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer has no fast version, which the loss mask needs.")
    with boundary(ModelError, tokenizer.name_or_path, "its tokenizer cannot be used", "Fetch its files again."):
        return _ask(tokenizer)


def _ask(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    template, tool_template = _templates(tokenizer)
    pinned, pinned_for_tools = _pin(template), _pin(tool_template)
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}
    with_special = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    bos_id: int | None = tokenizer.bos_token_id
    eos_id: int | None = tokenizer.eos_token_id
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    shape, rendered = (TurnShape(), "") if pinned is None else _shape(tokens, pinned)

    def specials(text: str) -> list[int]:
        return [token for token in tokenizer(text, add_special_tokens=False)["input_ids"] if token in special]

    ending = find_ending(tokenizer, pinned)
    closing = {ending.token, eos_id} - {None}
    if pinned is not None:
        closing |= set(_end_of_call(tokens, pinned_for_tools or pinned, specials))
    return ChatFormat(
        template=pinned,
        marks_generation=pinned is not None and _GENERATION.search(pinned) is not None,
        dated=pinned != template,
        adds_bos=bos_id is not None and with_special[:1] == [bos_id] and plain[:1] != [bos_id],
        bos_id=bos_id,
        eos_id=eos_id,
        eos_token=str(tokenizer.eos_token or ""),
        special_ids=frozenset(special),
        tokens=tokens,
        ending=ending,
        tool_template=pinned_for_tools,
        shape=shape,
        closing_ids=frozenset(token for token in closing if token is not None),
        control_tokens=frozenset(str(tokenizer.convert_ids_to_tokens(token)) for token in set(specials(rendered))),
    )


def choose_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> None:
    """Make the template of this name the tokenizer's only one. Raises ModelError when it has none of that name."""
    if name is None:
        return
    named = tokenizer.chat_template
    if not isinstance(named, Mapping):
        has = "one chat template, without a name" if named else "no chat template"
        raise ModelError(f"--chat-template {name}: the tokenizer has {has}. Leave the option out.")
    if name not in named:
        raise ModelError(f"--chat-template {name}: the tokenizer has none of this name. {did_you_mean(name, named)}")
    tokenizer.chat_template = named[name]


def _templates(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str | None]:
    """The template, and that of chats with tools where it is another, as transformers chooses them."""
    named = tokenizer.chat_template
    if not isinstance(named, Mapping):
        return _text(named) if named else None, None
    if "default" in named:
        return _text(named["default"]), _text(named["tool_use"]) if named.get("tool_use") else None
    if len(named) == 1:
        return _text(next(iter(named.values()))), None
    raise ModelError(
        f"the tokenizer has {len(named)} chat templates and none is called 'default': {', '.join(named)}. "
        "Choose one with --chat-template NAME."
    )


def _text(template: Any) -> str:
    if not isinstance(template, str):
        raise ModelError(
            f"the tokenizer's chat template is {type(template).__name__}, and text is needed. Repair chat_template in "
            "tokenizer_config.json, or fetch the base again."
        )
    return template


def _pin(template: str | None) -> str | None:
    """With any call for today's date fixed. Raises ModelError when it does not compile."""
    if template is None:
        return None
    pinned = with_fixed_date(template)
    compile_template(pinned)
    return pinned


def _shape(tokens: Mapping[str, str], template: str) -> tuple[TurnShape, str]:
    """What the template puts around an answer, and a chat as it writes one; nothing where it refuses a plain chat."""
    question: list[Message] = [speak("user", _ASKED)]
    try:
        whole = apply_template(tokens, template, [*question, speak("assistant", _ANSWERED)])
        asked = apply_template(tokens, template, question)
        prompt = apply_template(tokens, template, question, add_generation_prompt=True)
    except DataError:
        return TurnShape(), ""
    place = whole.find(_ANSWERED)
    if place < 0:
        return TurnShape(), whole
    if not (prompt.startswith(asked) and whole.startswith(asked)):
        return TurnShape(), whole
    start = len(asked)
    header = _shared_start(prompt[start:], whole[start:place])
    bridge = prompt[prompt.find(_ASKED) + len(_ASKED) :] if _ASKED in prompt else ""
    return TurnShape(header, prompt[start:] if header else "", bridge), whole


def _end_of_call(tokens: Mapping[str, str], template: str, specials: Callable[[str], list[int]]) -> list[int]:
    """The token that ends a turn which calls a tool, where the template can tell: some end it otherwise than an answer.

    It is what the template writes last after a call that ends the chat; if that is nothing, what it writes first
    before the tool's answer.
    """
    value = "lowregret value"
    arguments = {"key": value}
    answer: Message = {"role": "tool", "name": "lowregret_tool", "tool_call_id": "lowregre1", "content": _ANSWERED}
    schema = {"type": "object", "properties": {"key": {"type": "string", "description": ""}}, "required": ["key"]}
    tool = {"type": "function", "function": {"name": answer["name"], "description": "", "parameters": schema}}
    alone = followed = ""
    for form in (arguments, to_json(arguments)):
        called = {"name": answer["name"], "arguments": form}
        calls = [{"id": answer["tool_call_id"], "type": "function", "function": called}]
        asked = [speak("user", _ASKED), {**speak("assistant", ""), "tool_calls": calls}]
        try:
            alone, followed = (apply_template(tokens, template, chat, [tool]) for chat in (asked, [*asked, answer]))
        except DataError:
            continue
        break
    if value not in alone or value not in followed:
        return []
    tail = alone[alone.rfind(value) + len(value) :].rstrip()
    between = followed[followed.rfind(value) + len(value) :].split(_ANSWERED)[0]
    if between.startswith(tail) and specials(tail):
        return specials(tail)[-1:]
    return specials(between.removeprefix(tail))[:1]


def _shared_start(prompt: str, whole: str) -> str:
    """What both begin with, up to the end of a tag, line or word where they part in the middle of one."""
    parted = next((rank for rank, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), None)
    if parted is None:
        return prompt[: len(whole)]
    return prompt[: max(prompt.rfind(mark, 0, parted) for mark in ">]\n ") + 1]
