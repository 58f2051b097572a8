"""Rows → token ids and the mask of what the loss counts.

A chat is rendered once, as text, by the tokenizer's own template; where each assistant turn lies in that text is found
by rendering again with the turn replaced, and the tokenizer's character offsets turn places into tokens. So the tokens
are those of the model card, whatever the template does to earlier turns, and the mask is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lowregret.data.chat.loss_mask import Span, loss_mask
from lowregret.data.chat.rendering import Rendering, render
from lowregret.data.chat.template import ChatFormat, chat_format
from lowregret.data.example import Example
from lowregret.data.sources import Row
from lowregret.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1024
"""Rows tokenised in one call."""


@dataclass(frozen=True)
class Encoded:
    """A row's example, or why there is none."""

    example: Example | None
    """None when an over-long row is dropped, or keeps no supervised token once cut; and when the chat template leaves
    out part of each of its turns, as the remarks say."""
    length: int
    """Tokens before any cut."""
    overlong: bool
    open_turns: int
    """Supervised turns that no end-of-turn token closes."""
    remarks: tuple[str, ...] = ()
    """What a user should know of this row, each as often as it occurs."""


def encode(
    row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: Literal["cut", "drop"]
) -> tuple[Example | None, bool]:
    """The example of one row, and whether it was longer than `max_length` tokens.

    The example is None when an over-long row is dropped: by `drop`, or by `cut` when no supervised token is left.
    Raises DataError when the chat template refuses the row, hides its assistant turns, or nothing in it is supervised.
    """
    (result,) = encode_rows([row], tokenizer, max_length, overlong)
    if isinstance(result, DataError):
        raise DataError(str(result), source=row.source, line=row.line)
    return result.example, result.overlong


def encode_rows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, overlong: Literal["cut", "drop"]
) -> list[Encoded | DataError]:
    """`encode` for many rows, in few calls of the tokenizer; what `encode` would raise is returned, without a place."""
    form = chat_format(tokenizer)
    encoded: list[Encoded | DataError] = []
    for start in range(0, len(rows), _CHUNK):
        renderings = [_try_render(row, tokenizer, form) for row in rows[start : start + _CHUNK]]
        texts = [rendering.text for rendering in renderings if isinstance(rendering, Rendering)]
        tokens = _tokenise(texts, tokenizer)
        for rendering in renderings:
            if isinstance(rendering, DataError):
                encoded.append(rendering)
            else:
                ids, offsets = next(tokens)
                encoded.append(_finish(rendering, ids, offsets, form, max_length, overlong))
    return encoded


def _try_render(row: Row, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> Rendering | DataError:
    try:
        return render(row, tokenizer, form)
    except DataError as error:
        return error


def _tokenise(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Any:
    if not texts:
        return iter(())
    tokens = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)


def _finish(
    rendering: Rendering,
    ids: list[int],
    offsets: list[Span],
    form: ChatFormat,
    max_length: int,
    overlong: Literal["cut", "drop"],
) -> Encoded | DataError:
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
    length = len(ids)
    if not any(mask) and rendering.places == () and rendering.remarks:
        return Encoded(None, length, False, 0, rendering.remarks)
    if not any(mask):
        return DataError(
            "nothing in it is supervised: it is too short, or the chat template leaves its assistant turns out."
        )
    too_long = length > max_length
    if too_long:
        ids, mask = ids[:max_length], mask[:max_length]
    kept = any(mask) and not (too_long and overlong == "drop")
    return Encoded(Example(tuple(ids), tuple(mask)) if kept else None, length, too_long, open_turns, rendering.remarks)


def _is_ended(text: str, ids: list[int], offsets: list[Span], form: ChatFormat) -> bool:
    """Whether the last token but spaces ends a turn."""
    last = len(ids)
    while last and ids[last - 1] not in form.special_ids and text[slice(*offsets[last - 1])].isspace():
        last -= 1
    return last > 0 and ids[last - 1] in form.closing_ids
