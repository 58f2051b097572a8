"""Batched generation for many policies at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lowregret.engine.decode import Decoder, Prompts

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


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Prompts,
    params: SamplingParams,
    decode: Callable[[list[int]], str],
    seeds: Mapping[str, int] | None = None,
) -> dict[str, list[Completion]]:
    """One completion for each prompt of each policy. Rows that have finished are dropped when enough have.

    `decode` is what stop texts are looked for with; `seeds` are those of policies that have their own.
    """
    if not any(prompts.values()):
        return {name: [] for name in prompts}
    logits = decoder.start()
    device, rows = logits.device, logits.shape[0]
    uniforms = _uniforms({name: len(group) for name, group in prompts.items()}, params, seeds or {}).to(device)
    stops = torch.tensor(params.stop_ids, dtype=torch.int64, device=device)
    texts = StopTexts(params.stop_texts, decode)
    tokens = torch.zeros(rows, params.max_tokens, dtype=torch.int64, device=device)
    logprobs = torch.zeros(rows, params.max_tokens, dtype=torch.float32, device=device)
    lengths = torch.zeros(rows, dtype=torch.int64, device=device)
    places = torch.arange(rows, device=device)  # of the rows that are still in the batch
    open_rows = torch.ones(rows, dtype=torch.bool, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    looked = 0  # so many tokens of each open row are known to hold no stop text
    for step in range(params.max_tokens):
        chosen, logprob = _draw(logits.float(), params.temperature, uniforms[places, step], params.top_p)
        tokens[places, step], logprobs[places, step] = chosen, logprob
        lengths[places] += open_rows
        last = step + 1 == params.max_tokens
        look = last or device.type == "cpu" or step % LOOK_EVERY == LOOK_EVERY - 1
        if texts and look:
            still = _without_texts(texts, tokens, lengths, places, open_rows, looked)
            ended[places] |= open_rows & ~still
            open_rows, looked = still, step + 1
        stopped = torch.isin(chosen, stops)
        ended[places] |= open_rows & stopped
        open_rows = open_rows & ~stopped
        if last:
            break
        if look and (params.stop_ids or texts):
            kept, counts = _worth_keeping(open_rows.tolist(), decoder.counts)
            if not kept:
                break
            if len(kept) <= DROP_BELOW * len(open_rows) and decoder.keep(kept, counts):
                index = torch.tensor(kept, device=device)
                places, open_rows, chosen = places[index], open_rows[index], chosen[index]
        logits = decoder.step(chosen)
    completions = _completions(tokens, logprobs, lengths, ended)
    found: dict[str, list[Completion]] = {}
    for name, group in prompts.items():
        found[name], completions = completions[: len(group)], completions[len(group) :]
    return found


def _without_texts(
    texts: StopTexts,
    tokens: Int[Tensor, "all_rows max_tokens"],
    lengths: Int[Tensor, " all_rows"],
    places: Int[Tensor, " rows"],
    open_rows: Bool[Tensor, " rows"],
    looked: int,
) -> Bool[Tensor, " rows"]:
    """Which open rows still hold no stop text; `lengths` of the others become those at which they end."""
    first = max(0, looked - texts.window)
    own = lengths[places]
    drawn = tokens[places, first:].tolist()
    cuts = own.tolist()
    still = open_rows.tolist()
    for row, ids in enumerate(drawn):
        if still[row]:
            end = texts.end(ids[: cuts[row] - first], looked - first)
            if end is not None:
                still[row], cuts[row] = False, end + first
    lengths[places] = torch.tensor(cuts, device=lengths.device)
    return torch.tensor(still, device=open_rows.device)


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
    odds = torch.nn.functional.pad((logits - largest).exp_(), (0, -logits.shape[1] % BLOCK))
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
