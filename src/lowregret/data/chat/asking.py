"""A chat up to where an assistant's turn begins: what is read before an answer is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowregret.data.chat.compiled import apply_template
from lowregret.data.chat.template import ChatFormat
from lowregret.data.turns import Message, speak

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def asking_text(messages: Sequence[Message], form: ChatFormat) -> str:
    """The chat as the template writes it, with its generation prompt.

    Without a template contents are joined by blank lines, EOS after each assistant turn, as in training. DataError when
    the template refuses the chat.
    """
    if form.template is not None:
        return apply_template(form.tokens, form.template, messages, add_generation_prompt=True)
    ends = {"assistant": form.eos_token}
    return "".join(f"{turn['content'] or ''}{ends.get(turn['role'], '')}\n\n" for turn in messages)


def asking_ids(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> tuple[int, ...]:
    """The tokens of that text: those that come before the answer in a training example of the same chat."""
    ids = tuple(tokenizer(asking_text(messages, form), add_special_tokens=False, verbose=False)["input_ids"])
    return (form.bos_id, *ids) if form.template is None and form.adds_bos and form.bos_id is not None else ids


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> tuple[int, ...]:
    """Those of a user's turn alone."""
    return asking_ids([speak("user", text)], tokenizer, form)
