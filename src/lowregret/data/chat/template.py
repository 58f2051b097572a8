"""What a tokenizer says about chats: its template, its special tokens, what it puts around a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowregret.data.chat.compiled import FIXED_DATE, compile_template, with_fixed_date
from lowregret.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


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
    """Ask a tokenizer once. Raises ModelError when it gives no character offsets, or its template is none."""
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer has no fast version, which the loss mask needs.")
    template = None
    if tokenizer.chat_template:
        try:
            template = tokenizer.get_chat_template()
        except ValueError as error:
            raise ModelError(f"the tokenizer's chat template: {error}") from None
    pinned = None if template is None else with_fixed_date(template)
    if pinned is not None:
        compile_template(pinned)
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}
    with_special = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    bos_id: int | None = tokenizer.bos_token_id
    return ChatFormat(
        template=pinned,
        marks_generation=pinned is not None and _GENERATION.search(pinned) is not None,
        dated=pinned != template,
        adds_bos=bos_id is not None and with_special[:1] == [bos_id] and plain[:1] != [bos_id],
        bos_id=bos_id,
        eos_id=tokenizer.eos_token_id,
        eos_token=str(tokenizer.eos_token or ""),
        special_ids=frozenset(special),
    )
