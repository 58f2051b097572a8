"""A chat up to where an assistant's turn begins: what is read before an answer is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.compiled import apply_template
from lowregret.data.chat.forms import forms
from lowregret.data.chat.rendering import in_parts, left_out_before
from lowregret.data.chat.template import ChatFormat
from lowregret.data.turns import Message, speak
from lowregret.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = "lowregretanswer0q"
"""What a template is tried with."""


def asking_text(messages: Sequence[Message], form: ChatFormat, tools: Sequence[Any] | None = None) -> str:
    """The chat as the template writes it, with its generation prompt, in the form in which training writes it.

    Without a template contents are joined by blank lines, EOS after each assistant turn, as in training. DataError when
    the template refuses the chat.
    """
    template = form.template_for(tools)
    if template is not None:
        return _written(messages, form, template, tools)
    ends = {"assistant": form.eos_token}
    return "".join(f"{turn['content'] or ''}{ends.get(turn['role'], '')}\n\n" for turn in messages)


def _written(messages: Sequence[Message], form: ChatFormat, template: str, tools: Sequence[Any] | None) -> str:
    """By the template: in the first form of the messages of which it leaves nothing out, else the first that it takes,
    in which it writes an answer too."""
    first: DataError | None = None
    other: str | None = None
    for as_parts in (False, True):
        best: str | None = None
        for turns in forms(tuple(messages)):
            shaped = [in_parts(turn) for turn in turns] if as_parts else turns
            try:
                text = apply_template(form.tokens, template, shaped, tools, add_generation_prompt=True)
            except DataError as error:
                first = first or error
                continue
            if not any(left_out_before(text, turns, tools)):
                return text
            other = other or text
            if best is None and _answers(shaped, form, template, as_parts, tools):
                best = text
        if best is not None:
            return best
    if other is not None:
        return other
    raise first or DataError("holds no turn.")


def _answers(
    turns: list[Message], form: ChatFormat, template: str, as_parts: bool, tools: Sequence[Any] | None
) -> bool:
    """Whether the template writes an answer to these turns: one for models that see leaves plain text out."""
    answer = speak("assistant", _ANSWER)
    try:
        whole = apply_template(form.tokens, template, [*turns, in_parts(answer) if as_parts else answer], tools)
    except DataError:
        return True
    return _ANSWER in whole


def asking_ids(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    form: ChatFormat,
    tools: Sequence[Any] | None = None,
) -> tuple[int, ...]:
    """The tokens of that text: those that come before the answer in a training example of the same chat."""
    ids = tuple(tokenizer(asking_text(messages, form, tools), add_special_tokens=False, verbose=False)["input_ids"])
    return (form.bos_id, *ids) if form.template is None and form.adds_bos and form.bos_id is not None else ids


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> tuple[int, ...]:
    """Those of a user's turn alone."""
    return asking_ids([speak("user", text)], tokenizer, form)
