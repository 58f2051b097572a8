"""What ends an assistant's turn. The loss mask, the sampler and the exports ask here, so that they cannot differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.compiled import rendering
from lowregret.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER, _QUESTION = "lowregretanswer0q", "lowregretquestion0q"
"""Contents of the turns that a template is asked with."""
_LEADS: tuple[tuple[str, ...], ...] = (("user",), ("system", "user"), ())
"""Roles before the assistant's turn: some templates insist on a system turn, others refuse it."""


@dataclass(frozen=True)
class Ending:
    """How the turns of an assistant end, as a tokenizer has it. Without a chat template EOS does it."""

    token: int | None = None
    """The first token of its own (special or added, no BOS) after a turn's content; None when there is none."""
    written: str = ""
    """All that stands from the content to the end of the turn, which a model is to write: the text of the token with
    whatever comes before it, or plain text in its place. "" when nothing is written after a conversation's last turn
    but blanks, or without a template."""
    stop: str = ""
    """The text that ends a turn where no token does: `written`, or else what introduces the next turn; "" for none."""

    def close(self, text: str, end: int) -> int | None:
        """Where the ending stops that follows a content up to `end` in `text`; None when another follows, or none."""
        return end + len(self.written) if self.written and text.startswith(self.written, end) else None


def find_ending(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Ending:
    """Ask a chat template (Jinja; None for none) what it writes after an assistant's turn, by rendering two chats.

    What follows a conversation's last turn goes first: between turns some templates write another token, or the next
    header alone. A template that refuses every chat ends nothing.
    """
    if template is None:
        return Ending(token=tokenizer.eos_token_id)
    last, between = (_after(tokenizer, template, more) for more in ((), ("user",)))
    if (found := _first_token(tokenizer, *last)) is not None:
        return Ending(*found)
    alone, next_turn = last[1].rstrip(), between[1].rstrip()
    if alone.strip() and next_turn.startswith(alone):
        return Ending(written=alone, stop=alone)
    if (found := _first_token(tokenizer, *between)) is not None:
        return Ending(*found)
    return Ending(stop=next_turn if next_turn.strip() else "")


def _after(tokenizer: PreTrainedTokenizerBase, template: str, more: tuple[str, ...]) -> tuple[str, str]:
    """(a chat up to what introduces the turns of `more`, the part of it that comes after the assistant's content)."""
    for lead in _LEADS:
        roles = (*lead, "assistant", *more)
        for parts in (False, True):
            try:
                with rendering():
                    text = str(
                        tokenizer.apply_chat_template(
                            [_turn(role, parts) for role in roles], tokenize=False, chat_template=template
                        )
                    )
            except DataError:
                continue
            place = text.rfind(_ANSWER)
            if place >= 0:
                begin = place + len(_ANSWER)
                end = text.find(_QUESTION, begin)
                whole = text if end < 0 else text[:end]
                return whole, whole[begin:]
    return "", ""


def _turn(role: str, parts: bool) -> dict[str, Any]:
    content = _ANSWER if role == "assistant" else _QUESTION
    return {"role": role, "content": [{"type": "text", "text": content}] if parts else content}


def _first_token(tokenizer: PreTrainedTokenizerBase, text: str, rest: str) -> tuple[int, str] | None:
    """(the first token of its own in `rest`, the end of `text`; `rest` up to it)."""
    if not rest.strip():
        return None
    begin = len(text) - len(rest)
    own = _own_tokens(tokenizer)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for token, (start, stop) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        spelled = text[start:stop].strip() == own.get(token)  # else it stands for what the vocabulary does not have
        if start >= begin and spelled:
            return token, text[begin:stop].rstrip()  # a token may take the blanks after it
    return None


def _own_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Special and added tokens, as they are spelled. BOS opens a text, unless it is EOS too; and some tokenizers add
    runs of blanks."""
    found = {number: token.content.strip() for number, token in tokenizer.added_tokens_decoder.items()}
    opens = tokenizer.bos_token_id if tokenizer.bos_token_id != tokenizer.eos_token_id else None
    return {number: spelled for number, spelled in found.items() if spelled and number != opens}
