"""Batched generation for many policies at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lowregret.engine.sampling.decode import Decoder, Prompts
from lowregret.engine.sampling.draw import Completion, SamplingParams, StopTexts, draw

DROP_BELOW = 0.75
"""Finished rows are dropped when no more than this share is left: moving the rest costs about what two steps save."""
LOOK_EVERY = 8
"""Steps between looks at which rows have finished, on a device that a look would make wait."""


Read = Callable[[Prompts], Decoder]
"""Gives the decoder of some prompts."""


@torch.no_grad()
def generate(
    read: Read,
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
    if not any(prompts.values()):
        return {name: [] for name in prompts}
    completions = _Generation(read, prompts, params, decode, numbers, max_rows).run()
    found: dict[str, list[Completion]] = {}
    for name, group in prompts.items():
        found[name], completions = completions[: len(group)], completions[len(group) :]
    return found


class _Generation:
    """Rows that are drawn together: which are in the batch, and what each has so far."""

    def __init__(
        self,
        read: Read,
        prompts: Prompts,
        params: SamplingParams,
        decode: Callable[[list[int]], str],
        numbers: Float[Tensor, "rows max_tokens"],
        max_rows: int | None,
    ) -> None:
        self._read, self._params = read, params
        self._texts = StopTexts(params.stop_texts, decode)
        self._stop_ids = frozenset(params.stop_ids)
        self._prompts = [prompt for group in prompts.values() for prompt in group]
        counts = {name: len(group) for name, group in prompts.items()}
        starts = dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
        self._waiting = {name: deque(range(starts[name], starts[name] + count)) for name, count in counts.items()}
        policies = sum(map(bool, counts.values()))
        self._seats = len(self._prompts) if max_rows is None else max(max_rows // policies, 1)
        """Rows of each policy in the batch, at most."""
        self._start()
        device, rows, length = self._device, len(self._prompts), params.max_tokens
        self._uniforms = numbers.to(device)
        self._stops = torch.tensor(params.stop_ids, dtype=torch.int64, device=device)
        # The last column is for what is drawn for rows that have ended.
        self._tokens = torch.zeros(rows, length + 1, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(rows, length + 1, dtype=torch.float32, device=device)
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self._ended = torch.zeros(rows, dtype=torch.bool, device=device)

    def _start(self) -> None:
        """An empty batch takes in who waits."""
        places, prompts = self._called(dict.fromkeys(self._waiting, 0))
        self._decoder = self._read({name: new for name, new in prompts.items() if new})
        self._logits = self._decoder.start()
        device = self._device = self._logits.device
        self._places = torch.tensor(places, device=device)
        self._open = torch.ones(len(places), dtype=torch.bool, device=device)
        self._drawn = [0] * len(places)
        """Tokens that were drawn for each row in the batch, those after its end included: known without waiting."""
        self._steps = torch.zeros(len(places), dtype=torch.int64, device=device)
        """The same on the device."""
        self._unseen = 0
        """How many of the last ones were not looked at yet."""

    def run(self) -> list[Completion]:
        """All completions, in the order of the prompts."""
        while True:
            chosen = self._draw()
            full = max(self._drawn) >= self._params.max_tokens
            looked = full or self._may_look()
            if looked:
                kept = self._look()
                if not kept:
                    if not any(self._waiting.values()):
                        break
                    self._start()
                    continue
                chosen = self._drop(kept, chosen)
            self._logits = self._decoder.step(chosen)
            if looked and any(self._waiting.values()):
                self._refill()
        return _completions(self._tokens, self._logprobs, self._lengths, self._ended)

    def _draw(self) -> Int[Tensor, " rows"]:
        params, places, most = self._params, self._places, self._params.max_tokens
        numbers = self._uniforms[places, self._steps.clamp(max=most - 1)]
        chosen, logprob = draw(self._logits.float(), params.temperature, numbers, params.top_p)
        columns = torch.where(self._open, self._steps, most)
        self._tokens[places, columns], self._logprobs[places, columns] = chosen, logprob
        self._lengths[places] += self._open
        self._drawn = [drawn + 1 for drawn in self._drawn]
        self._steps = self._steps + 1
        self._unseen += 1
        if not self._texts:  # else a text may end a row before the token that is now its last
            self._close(torch.isin(chosen, self._stops))
        return chosen

    def _close(self, stopped: Bool[Tensor, " rows"]) -> None:
        self._ended[self._places] |= self._open & stopped
        self._open = self._open & ~stopped

    def _may_look(self) -> bool:
        """Whether to look at which rows have ended: a look makes a device wait."""
        some = bool(self._params.stop_ids or self._params.stop_texts)
        return some and (self._device.type == "cpu" or self._unseen >= LOOK_EVERY)

    def _look(self) -> list[int]:
        """Rows to go on with: finished ones leave when there are enough of them, or none is left to go on with."""
        if self._texts:
            self._cut()
        self._unseen = 0
        self._open = self._open & (self._steps < self._params.max_tokens)
        opened = self._open.tolist()
        if any(self._waiting.values()):
            self._kept_counts, kept = _open_rows(opened, self._decoder.counts)
        else:
            kept, self._kept_counts = _worth_keeping(opened, self._decoder.counts)
        return kept

    def _drop(self, kept: list[int], chosen: Int[Tensor, " rows"]) -> Int[Tensor, " left"]:
        if len(kept) > DROP_BELOW * len(self._drawn) or not self._decoder.keep(kept, self._kept_counts):
            return chosen
        index = torch.tensor(kept, device=self._device)
        self._places, self._open, self._steps = self._places[index], self._open[index], self._steps[index]
        self._drawn = [self._drawn[row] for row in kept]
        return chosen[index]

    def _refill(self) -> None:
        """Waiting rows take the places of those that have left."""
        counts = {name: self._decoder.counts.get(name, 0) for name in self._waiting}
        if not any(self._seats > counts[name] for name, waiting in self._waiting.items() if waiting):
            return
        held = {name: deque(waiting) for name, waiting in self._waiting.items()}
        places, prompts = self._called(counts)
        joined = self._decoder.join(prompts)
        if joined is None:
            self._waiting = held
            return
        logits, order = joined
        index = torch.tensor(order, device=self._device)
        self._logits = torch.cat([self._logits, logits])[index]
        self._places = torch.cat([self._places, torch.tensor(places, device=self._device)])[index]
        self._open = torch.nn.functional.pad(self._open, (0, len(places)), value=True)[index]
        self._steps = torch.nn.functional.pad(self._steps, (0, len(places)))[index]
        drawn = self._drawn + [0] * len(places)
        self._drawn = [drawn[row] for row in order]

    def _called(self, counts: Mapping[str, int]) -> tuple[list[int], dict[str, list[Sequence[int]]]]:
        """(places, prompts by policy) of those that need not wait any more, beside `counts` rows that are there."""
        places: list[int] = []
        prompts: dict[str, list[Sequence[int]]] = {}
        for name, waiting in self._waiting.items():
            new = [waiting.popleft() for _ in range(min(self._seats - counts[name], len(waiting)))]
            places += new
            prompts[name] = [self._prompts[place] for place in new]
        return places, prompts

    def _cut(self) -> None:
        """End the open rows at the first stop text or token among those that were not looked at yet."""
        drawn = self._tokens[self._places].tolist()
        lengths, still = self._lengths[self._places].tolist(), self._open.tolist()
        ended = [False] * len(still)
        for row, ids in enumerate(drawn):
            if not still[row]:
                continue
            first = max(0, lengths[row] - self._unseen)
            ends = [first + 1 + step for step, token in enumerate(ids[first : lengths[row]]) if token in self._stop_ids]
            own = ids[: ends[0] if ends else lengths[row]]
            end = self._texts.end(own, first)
            if end is not None or ends:
                still[row], ended[row] = False, True
                lengths[row] = len(own) if end is None else end
        self._lengths[self._places] = torch.tensor(lengths, device=self._device)
        self._ended[self._places] |= torch.tensor(ended, device=self._device)
        self._open = torch.tensor(still, device=self._device)


def _open_rows(open_rows: list[bool], counts: dict[str, int]) -> tuple[dict[str, int], list[int]]:
    """How many rows of each policy are open, and which."""
    kept = [row for row, is_open in enumerate(open_rows) if is_open]
    found, start = {}, 0
    for name, count in counts.items():
        if own := sum(open_rows[start : start + count]):
            found[name] = own
        start += count
    return found, kept


def _worth_keeping(open_rows: list[bool], counts: dict[str, int]) -> tuple[list[int], dict[str, int]]:
    """Rows to go on with, and how many of each policy.

    Every policy that has an open row keeps as many rows as the one with the most, finished ones among them if need be:
    policies with equally many rows are one batched product.
    """
    opened: dict[str, list[int]] = {}
    closed: dict[str, list[int]] = {}
    start = 0
    for name, count in counts.items():
        places = range(start, start + count)
        opened[name] = [row for row in places if open_rows[row]]
        closed[name] = [row for row in places if not open_rows[row]]
        start += count
    most = max(len(rows) for rows in opened.values())
    kept = {name: sorted(rows + closed[name][: most - len(rows)]) for name, rows in opened.items() if rows}
    return [row for rows in kept.values() for row in rows], {name: len(rows) for name, rows in kept.items()}


def _completions(
    tokens: Int[Tensor, "rows drawn"],
    logprobs: Float[Tensor, "rows drawn"],
    lengths: Int[Tensor, " rows"],
    ended: Bool[Tensor, " rows"],
) -> list[Completion]:
    columns = zip(tokens.tolist(), logprobs.tolist(), lengths.tolist(), ended.tolist(), strict=True)
    return [
        Completion(tuple(ids[:length]), tuple(scores[:length]), finished) for ids, scores, length, finished in columns
    ]
