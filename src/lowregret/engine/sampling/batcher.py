"""Rows of many policies that are drawn together, step by step: they come and go between steps.

Whoever has prompts adds their rows and calls `step` until they have ended: `generate` for a batch of prompts, `stream`
for one, a server for whoever asks. What a row draws depends on its prompt, its parameters and its numbers alone, not on
the rows beside it or on when it came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.engine.sampling.choose import refuse_empty
from lowregret.engine.sampling.decode import Decoder, Prompts
from lowregret.engine.sampling.draw import Completion, Likely, SamplingParams, StopTexts
from lowregret.engine.sampling.rows import Drawn, Picking, Row

DROP_BELOW = 0.75
"""Finished rows are dropped when no more than this share is left: closing the gaps costs about what two steps save."""
LOOK_EVERY = 8
"""Steps between looks at what was drawn, on a device that a look would make wait."""


MakeDecoder = Callable[[], Decoder]
"""Gives a decoder without rows."""


@final
class Batcher:
    """Rows that are drawn together."""

    def __init__(self, make: MakeDecoder, order: Callable[[Iterable[str]], list[str]]) -> None:
        """`order` puts policies' names into the order in which their rows are to lie."""
        self._make, self._order = make, order
        self._new: list[Row] = []
        self._groups: list[_Group] = []

    @property
    def busy(self) -> bool:
        """Whether there is a row that has not ended."""
        return bool(self._new or self._groups)

    def rows_of(self, policy: str) -> int:
        """Rows of a policy in memory, those included that have ended and are carried along."""
        waiting = sum(row.policy == policy for row in self._new)
        return waiting + sum(group.decoder.counts.get(policy, 0) for group in self._groups)

    def add(self, row: Row) -> None:
        """Take a row in at the next step. SpecError for a prompt without tokens."""
        refuse_empty({row.policy: [row.prompt]})
        self._new.append(row)

    def renew(self) -> None:
        """Policies have come or gone since the last step."""
        for group in self._groups:
            group.decoder.renew()

    @torch.no_grad()
    def step(self, *, wanted: bool = False, live: bool = False) -> list[Row]:
        """Draw a token for every row; returns those with news: tokens that were looked at, or an end.

        `wanted`: other rows wait for the places of those that end. `live`: somebody waits for each token and each
        place, so that what is drawn is looked at in each step and no row is carried along.
        """
        for group in self._groups:
            group.advance()
        if self._new:
            self._admit()
        found: list[Row] = []
        for group in self._groups:
            found += group.step(wanted=wanted, live=live)
        self._groups = [group for group in self._groups if group.rows]
        return found

    def _admit(self) -> None:
        new, self._new = self._new, []
        seated = [row.policy for group in self._groups for row in group.rows]
        order = self._order(dict.fromkeys([*seated, *(row.policy for row in new)]))
        by_policy = {name: [row for row in new if row.policy == name] for name in order}
        rows = [row for own in by_policy.values() for row in own]
        prompts = {name: [row.prompt for row in own] for name, own in by_policy.items()}
        room = max(row.params.max_tokens for row in rows)
        if any(group.join(prompts, rows, room) for group in self._groups):
            return
        group = _Group(self._make())
        joined = group.join({name: own for name, own in prompts.items() if own}, rows, room)
        assert joined
        self._groups.append(group)


class _Group:
    """Rows of one decoder."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: list[Row] = []
        """In its order, those included that have ended and are carried along."""
        self._drawn: list[int] = []
        """Tokens drawn for each, those after its end included: known without waiting."""
        self._logits = torch.empty(0)
        self._chosen: Tensor | None = None
        """What was drawn and is not read yet: that waits for the next step, so that a token is told at once."""
        self._unseen: list[Drawn] = []
        self._picking: Picking | None = None
        self._news: dict[int, Row] = {}

    def join(self, prompts: Prompts, rows: Sequence[Row], room: int) -> bool:
        """Take rows in, whose prompts these are; False when the decoder cannot."""
        joined = self.decoder.join(prompts, room)
        if joined is None:
            return False
        logits, order = joined
        if self.rows:
            self._look()
            logits = torch.cat([self._logits, logits]).index_select(0, torch.tensor(order, device=logits.device))
        self._logits = logits
        both, drawn = [*self.rows, *rows], [*self._drawn, *[0] * len(rows)]
        self.rows, self._drawn = [both[row] for row in order], [drawn[row] for row in order]
        self._picking = None
        return True

    def advance(self) -> None:
        """Read what was drawn last; the logits of the next."""
        if self._chosen is not None:
            self._logits, self._chosen = self.decoder.step(self._chosen), None

    def step(self, *, wanted: bool, live: bool) -> list[Row]:
        """Draw a token for each row."""
        if self._picking is None:
            self._picking = Picking(self.rows, self._drawn, self._logits.device)
        drawn = self._picking(self._logits.float())
        self._unseen.append(drawn)
        self._drawn = [count + 1 for count in self._drawn]
        chosen = drawn.tokens
        if live or self._may_look():
            self._look()
            opened = [row.ended is None for row in self.rows]
            kept, counts = (open_rows if wanted or live else even_rows)(opened, self.decoder.counts)
            few = live or len(kept) <= DROP_BELOW * len(self.rows)
            if not kept:
                self._leave([])
                return self._told()
            if few and len(kept) < len(self.rows) and self.decoder.keep(self._leave(kept), counts):
                chosen = chosen.index_select(0, torch.tensor(kept, device=chosen.device))
                self.rows = [self.rows[row] for row in kept]
                self._drawn = [self._drawn[row] for row in kept]
                self._picking = None
        self._chosen = chosen
        return self._told()

    def _told(self) -> list[Row]:
        found, self._news = list(self._news.values()), {}
        return found

    def _may_look(self) -> bool:
        """Whether to look at what was drawn: a look makes a device wait."""
        if any(count == row.params.max_tokens for row, count in zip(self.rows, self._drawn, strict=True)):
            return True
        if any(row.constraint for row in self.rows):
            return True
        some = any(row.params.stop_ids or row.texts or row.cancelled for row in self.rows)
        return some and (self._logits.device.type == "cpu" or len(self._unseen) >= LOOK_EVERY)

    def _look(self) -> None:
        """Hand out what was drawn since the last look."""
        if not self._unseen:
            return
        assert self._picking is not None
        drawn = [(each.tokens, each.logprobs) for each in self._unseen]
        tokens, scores = (torch.stack(parts, 1).tolist() for parts in zip(*drawn, strict=True))
        likely = _likely(self._unseen, self._picking.asked, self.rows)
        self._unseen = []
        for number, row in enumerate(self.rows):
            if row.ended is None:
                self._news[id(row)] = row
                row.take(tokens[number], scores[number], likely.get(number, ()))

    def _leave(self, kept: list[int]) -> list[int]:
        """Tell the decoder who leaves with what; empties the group when nobody stays."""
        stay = set(kept)
        for number, row in enumerate(self.rows):
            if number not in stay:
                self.decoder.ends(number, [*row.prompt, *row.tokens])
        if not kept:
            self.decoder.keep([], {})
            self.rows = []
        return kept


def _likely(unseen: Sequence[Drawn], asked: Sequence[int], rows: Sequence[Row]) -> dict[int, list[Likely]]:
    """By the number of each row that asked, what was likely at each step."""
    found: dict[int, list[Likely]] = {number: [] for number in asked}
    for drawn in unseen if asked else ():
        assert drawn.likely is not None
        own, top, ids = (part.tolist() for part in drawn.likely)
        for place, number in enumerate(asked):
            most = rows[number].params.top_logprobs or 0
            pairs = zip(ids[place][:most], top[place][:most], strict=True)
            found[number].append(Likely(own[place], tuple(pairs)))
    return found


def open_rows(opened: Sequence[bool], counts: dict[str, int]) -> tuple[list[int], dict[str, int]]:
    """Which rows are open, and how many of each policy."""
    kept = [row for row, is_open in enumerate(opened) if is_open]
    found, start = {}, 0
    for name, count in counts.items():
        if own := sum(opened[start : start + count]):
            found[name] = own
        start += count
    return kept, found


def even_rows(opened: Sequence[bool], counts: dict[str, int]) -> tuple[list[int], dict[str, int]]:
    """Rows to go on with, and how many of each policy.

    Every policy that has an open row keeps as many rows as the one with the most, finished ones among them if need be:
    policies with equally many rows are one batched product.
    """
    own: dict[str, list[int]] = {}
    closed: dict[str, list[int]] = {}
    start = 0
    for name, count in counts.items():
        places = range(start, start + count)
        own[name] = [row for row in places if opened[row]]
        closed[name] = [row for row in places if not opened[row]]
        start += count
    most = max((len(rows) for rows in own.values()), default=0)
    kept = {name: sorted(rows + closed[name][: most - len(rows)]) for name, rows in own.items() if rows}
    return [row for rows in kept.values() for row in rows], {name: len(rows) for name, rows in kept.items()}


def generate(
    batcher: Batcher,
    prompts: Prompts,
    params: SamplingParams,
    decode: Callable[[list[int]], str],
    numbers: Float[Tensor, "rows max_tokens"],
    max_rows: int | None = None,
) -> dict[str, list[Completion]]:
    """One completion for each prompt of each policy, drawn by its row of `numbers` (`uniforms`).

    `decode` is what stop texts are looked for with. With `max_rows`
    no more rows than that (one a policy at least) are in the batch at once, and waiting ones take the places of those
    that have finished: who waits changes no completion.
    """
    refuse_empty(prompts)
    texts, by_number = StopTexts(params.stop_texts, decode), iter(numbers)
    rows = {
        name: [Row(name, prompt, params, next(by_number), texts) for prompt in group] for name, group in prompts.items()
    }
    waiting = {name: deque(own) for name, own in rows.items() if own}
    seats = None if max_rows is None else max(max_rows // max(len(waiting), 1), 1)
    while waiting or batcher.busy:
        for name, own in list(waiting.items()):
            free = len(own) if seats is None else seats - batcher.rows_of(name)
            for _ in range(min(free, len(own))):
                batcher.add(own.popleft())
            if not own:
                del waiting[name]
        batcher.step(wanted=bool(waiting))
    return {name: [row.completion for row in own] for name, own in rows.items()}
