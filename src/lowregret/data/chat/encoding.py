"""Rows → token ids and the mask of what the loss counts.

A chat is rendered once, as text, by the tokenizer's own template; where each assistant turn lies in that text is found
by rendering again with the turn replaced, and the tokenizer's character offsets turn places into tokens. So the tokens
are those of the model card, whatever the template does to earlier turns, and the mask is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.loss_mask import Span, loss_mask
from lowregret.data.chat.rendering import Rendering, render
from lowregret.data.chat.template import ChatFormat, chat_format
from lowregret.data.example import Example
from lowregret.data.sources import Row
from lowregret.errors import DataError, ModelError
from lowregret.foreign import boundary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """A row's example, or why there is none."""

    example: Example | None
    """Whole, however long it is. None when the chat template leaves out part of each of its turns, as the remarks
    say."""
    open_turns: int
    """Supervised turns that no end-of-turn token closes."""
    remarks: tuple[str, ...] = ()
    """What a user should know of this row, each as often as it occurs."""


def encode(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """One row.

    Raises DataError when the chat template refuses the row, hides its assistant turns, or nothing in it is supervised.
    """
    (result,) = encode_rows([row], tokenizer)
    if isinstance(result, DataError):
        raise DataError(str(result), source=row.source, line=row.line)
    return result


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Encoded | DataError]:
    """`encode` for many rows, in one call of the tokenizer; what `encode` would raise is returned, without a place."""
    form = chat_format(tokenizer)
    renderings = [_try_render(row, tokenizer, form) for row in rows]
    tokens = _tokenise([found.text for found in renderings if isinstance(found, Rendering)], tokenizer)
    encoded: list[Encoded | DataError] = []
    for found in renderings:
        if isinstance(found, DataError):
            encoded.append(found)
        else:
            ids, offsets = next(tokens)
            encoded.append(_finish(found, ids, offsets, form))
    return encoded


def _try_render(row: Row, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> Rendering | DataError:
    try:
        return render(row, tokenizer, form)
    except DataError as error:
        return error


def _tokenise(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Any:
    if not texts:
        return iter(())
    with boundary(ModelError, tokenizer.name_or_path, "its tokenizer cannot encode these rows", "Fetch it again."):
        tokens = tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
    return zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)


def _finish(rendering: Rendering, ids: list[int], offsets: list[Span], form: ChatFormat) -> Encoded | DataError:
    open_turns = 0
    if rendering.places is None:
        mask = [True] * len(ids)
        if form.eos_id is not None and not _is_ended(rendering.text, ids, offsets, form):
            ids, mask = [*ids, form.eos_id], [*mask, True]
    else:
        mask, open_turns = loss_mask(rendering, ids, offsets, form)
    if rendering.wants_bos and form.bos_id is not None and ids[:1] != [form.bos_id]:
        ids, mask = [form.bos_id, *ids], [False, *mask]
    mask[:1] = [False] * len(mask[:1])
    if not any(mask) and rendering.places == () and rendering.remarks:
        return Encoded(None, 0, rendering.remarks)
    if not any(mask):
        return DataError(
            "nothing in it is supervised: it is too short, or the chat template leaves its assistant turns out."
        )
    return Encoded(Example(tuple(ids), tuple(mask)), open_turns, rendering.remarks)


def _is_ended(text: str, ids: list[int], offsets: list[Span], form: ChatFormat) -> bool:
    """Whether the last token but spaces ends a turn."""
    last = len(ids)
    while last and ids[last - 1] not in form.special_ids and text[slice(*offsets[last - 1])].isspace():
        last -= 1
    return last > 0 and ids[last - 1] in form.closing_ids
