"""Batched generation for many policies at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lowregret.engine.sampling.decode import Decoder, Prompts

BLOCK = 256
"""Neighbouring tokens whose probabilities are summed before one of them is looked for."""
DROP_BELOW = 0.75
"""Finished rows are dropped when no more than this share is left: moving the rest costs about what two steps save."""
LOOK_EVERY = 8
"""Steps between looks at which rows have finished, on a device that a look would make wait."""


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn."""

    max_tokens: int = 64
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Draws from the most likely tokens that together have at least this probability; 1 draws from all. Their
    log-probabilities are those within this set."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a completion; the end token itself is part of it."""
    stop_texts: tuple[str, ...] = ()
    """Texts that end a completion; the token that completes one is its last."""
    seed: int = 0
    """Equal seeds give equal completions, whoever else is in the batch: each policy has a stream of its own, the same
    for all."""


@dataclass(frozen=True)
class Completion:
    """One completion, without its prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log p under the sampler (at its temperature), nats, one a token."""
    finished: bool
    """True when a stop token or text ended it, False when `max_tokens` did."""


class StopTexts:
    """Finds the token that completes one of some texts."""

    def __init__(self, texts: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self._texts, self._decode = texts, decode
        # A token has a byte at least. The rest is for decoders that treat the first tokens of a text differently.
        self.window = max(len(text.encode()) for text in texts) + 4 if texts else 0

    def __bool__(self) -> bool:
        return bool(self._texts)

    def end(self, token_ids: Sequence[int], first: int) -> int | None:
        """The smallest length, above `first`, at which `token_ids` hold a text; None when there is none.

        At `first` and below there is known to be none.
        """
        for length in range(first + 1, len(token_ids) + 1):
            tail = self._decode(list(token_ids[max(0, length - self.window) : length]))
            if any(text in tail for text in self._texts):
                return length
        return None


Read = Callable[[Prompts], Decoder]
"""Gives the decoder of some prompts."""


@torch.no_grad()
def generate(
    read: Read,
    prompts: Prompts,
    params: SamplingParams,
    decode: Callable[[list[int]], str],
    seeds: Mapping[str, int] | None = None,
    max_rows: int | None = None,
) -> dict[str, list[Completion]]:
    """One completion for each prompt of each policy.

    `decode` is what stop texts are looked for with; `seeds` are those of policies that have their own. With `max_rows`
    no more rows than that (one a policy at least) are in the batch at once, and waiting ones take the places of those
    that have finished: who waits changes no completion.
    """
    if not any(prompts.values()):
        return {name: [] for name in prompts}
    completions = _Generation(read, prompts, params, decode, seeds or {}, max_rows).run()
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
        seeds: Mapping[str, int],
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
        self._uniforms = _uniforms(counts, params, seeds).to(device)
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
        chosen, logprob = _draw(self._logits.float(), params.temperature, numbers, params.top_p)
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


def _uniforms(
    counts: Mapping[str, int], params: SamplingParams, seeds: Mapping[str, int]
) -> Float[Tensor, "rows max_tokens"]:
    """One number in [0, 1) for each token of each row. Drawn on the CPU, so that every device gets the same."""
    drawn = []
    for name, count in counts.items():
        generator = torch.Generator().manual_seed(seeds.get(name, params.seed))
        drawn.append(torch.rand(count, params.max_tokens, generator=generator, dtype=torch.float64))
    return torch.cat(drawn)


def _draw(
    logits: Float[Tensor, "rows vocabulary"], temperature: float, uniforms: Float[Tensor, " rows"], top_p: float = 1.0
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Tokens and their log-probabilities: the token at which the cumulated probability passes a uniform number.

    One pass over the vocabulary sums it by blocks; the token is then looked for in one block. (torch.multinomial draws
    a random number for every token of the vocabulary: thirty times slower at 49 152.)
    """
    if temperature == 0:
        logprob, chosen = logits.max(dim=1)
        return chosen, logprob - logits.logsumexp(dim=1)
    if temperature != 1:
        logits = logits / temperature
    if top_p < 1:
        logits = _nucleus(logits, top_p)
    largest = logits.amax(dim=1, keepdim=True)
    odds = (logits - largest).exp_()
    if rest := -logits.shape[1] % BLOCK:  # to pad by nothing is a copy too
        odds = torch.nn.functional.pad(odds, (0, rest))
    odds = odds.view(logits.shape[0], -1, BLOCK)
    blocks = odds.sum(dim=2).double().cumsum(dim=1)
    sought = uniforms[:, None] * blocks[:, -1:]
    block = _passed(blocks, sought)
    before = torch.nn.functional.pad(blocks, (1, 0)).gather(1, block)
    inside = odds.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(dim=1)
    # Sums in another order differ in the last digits: the number sought must not lie past the last token of its block.
    token = _passed(inside, torch.minimum(sought - before, inside[:, -1:] * (1 - 1e-12)))
    chosen = (block * BLOCK + token)[:, 0]
    logprob = logits.gather(1, chosen[:, None]) - largest - blocks[:, -1:].log()
    return chosen, logprob[:, 0].float()


def _nucleus(logits: Float[Tensor, "rows vocabulary"], top_p: float) -> Float[Tensor, "rows vocabulary"]:
    """−inf but for the fewest most likely tokens whose probability is at least `top_p` (arXiv 1904.09751)."""
    ordered, order = logits.sort(dim=1, descending=True, stable=True)
    odds = ordered.softmax(dim=1)
    outside = odds.cumsum(dim=1) - odds >= top_p  # those before it suffice
    return ordered.masked_fill(outside, -torch.inf).gather(1, order.argsort(dim=1))


def _passed(cumulated: Float[Tensor, "rows n"], sought: Float[Tensor, "rows 1"]) -> Int[Tensor, "rows 1"]:
    """The first place where the cumulated sum is larger than the number sought; the last one if there is none."""
    return (cumulated <= sought).sum(dim=1, keepdim=True).clamp_(max=cumulated.shape[1] - 1)


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
