"""Which tokens of a rendered row the loss counts: character spans → a mask, by the tokenizer's offsets."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from lowregret.data.chat.places import Place
from lowregret.data.chat.rendering import Rendering
from lowregret.data.chat.template import ChatFormat

Span = tuple[int, int]
"""[begin, end) in characters."""


def loss_mask(rendering: Rendering, ids: list[int], offsets: list[Span], form: ChatFormat) -> tuple[list[bool], int]:
    """Which tokens belong to a turn or close it; and how many turns nothing closes."""
    mask = [False] * len(ids)
    open_turns = 0
    # Never falling, so that bisect may search them: a zero-width token may sit at (0, 0).
    starts = list(accumulate((start for start, _ in offsets), max))
    for place in rendering.places or ():
        first, last = _covered(place, starts, offsets, ids, form)
        end = None if place.limit is not None else form.ending.close(rendering.text, place.end)
        if place.limit is not None:
            stop, closed = _seek(last, bisect_left(starts, place.limit), ids, form)
        elif end is not None:
            stop, closed = bisect_left(starts, end), True
        else:
            stop, closed = _close(first, last, rendering.text, offsets, ids, form)
        open_turns += not closed
        mask[first:stop] = [True] * max(stop - first, 0)
    return mask, open_turns


def _seek(last: int, limit: int, ids: list[int], form: ChatFormat) -> tuple[int, bool]:
    """Where supervision stops of a turn that goes on past `last`: after the token that ends it."""
    stop = next((index for index in range(last, limit) if ids[index] in form.closing_ids), None)
    return (limit, False) if stop is None else (stop + 1, True)


def _covered(place: Place, starts: list[int], offsets: list[Span], ids: list[int], form: ChatFormat) -> tuple[int, int]:
    """[first, last): the tokens that hold a character of the place.

    A token may begin before the span (SentencePiece joins the space before a word to it) and still be its own.
    """
    begin, end = place.begin, place.end
    first = bisect_left(starts, begin)
    while begin < end and first > 0 and offsets[first - 1][1] > begin:
        first -= 1
    last = bisect_left(starts, end)
    # A header's special token may swallow the spaces after it (rstrip); it is the header's all the same.
    while first < last and ids[first] in form.special_ids and offsets[first][0] < begin:
        first += 1
    return first, last


def _close(first: int, last: int, text: str, offsets: list[Span], ids: list[int], form: ChatFormat) -> tuple[int, bool]:
    """Where supervision of the turn [first, last) stops, its end-of-turn token included; and whether it has one."""
    end = last
    while end > first and ids[end - 1] not in form.special_ids and text[slice(*offsets[end - 1])].isspace():
        end -= 1
    if end > first and ids[end - 1] in form.special_ids:
        return end, True  # a generation block that holds its own end of turn, perhaps with the line break after it
    if last < len(ids) and _may_close(ids[last], form):
        return last + 1, True
    after = last
    while after < len(ids) and ids[after] not in form.special_ids and text[slice(*offsets[after])].isspace():
        after += 1
    # Some templates write a space before the end of the turn; past a gap, only EOS is surely an end.
    if after < len(ids) and ids[after] == form.eos_id:
        return after + 1, True
    return last, False


def _may_close(token: int, form: ChatFormat) -> bool:
    return token in (form.eos_id, form.ending.token) or (token in form.special_ids and token != form.bos_id)
