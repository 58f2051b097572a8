"""How a token is drawn, and what ends a completion: the same for a batch and for a row that is told token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256
"""Neighbouring tokens whose probabilities are summed before one of them is looked for."""


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn."""

    max_tokens: int = 64
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Draws from the most likely tokens that together have at least this probability; 1 draws from all. Their
    log-probabilities are those within this set."""
    top_k: int = 0
    """Draws from so many most likely tokens; 0 draws from all."""
    min_p: float = 0.0
    """Draws from tokens at least this share as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Divides the logits above zero of tokens that the prompt or the completion has, and multiplies the others
    (arXiv 1909.05858)."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that the completion has."""
    frequency_penalty: float = 0.0
    """The same, for each time that it has them."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of tokens, after the penalties."""
    top_logprobs: int | None = None
    """How many of the most likely tokens are told beside each that is drawn; None tells none."""
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


@dataclass(frozen=True)
class Likely:
    """What the base said before a token was drawn: nats, at temperature 1, of all tokens, without penalties."""

    logprob: float
    """Of the token that was drawn."""
    top: tuple[tuple[int, float], ...]
    """The most likely tokens, the first of them first."""


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


def uniforms(
    counts: Mapping[str, int], params: SamplingParams, seeds: Mapping[str, int]
) -> dict[str, Float[Tensor, "rows max_tokens"]]:
    """By policy, one number in [0, 1) for each token of each of so many rows.

    Drawn on the CPU, so that every device gets the same; and for all rows, so that one's do not depend on who draws it.
    """
    drawn = {}
    for name, count in counts.items():
        generator = torch.Generator().manual_seed(seeds.get(name, params.seed))
        drawn[name] = torch.rand(count, params.max_tokens, generator=generator, dtype=torch.float64)
    return drawn


def rows_of_uniforms(params: SamplingParams) -> Iterator[Float[Tensor, " max_tokens"]]:
    """The rows that `uniforms` draws by the seed of `params`, one after the other and without end."""
    generator = torch.Generator().manual_seed(params.seed)
    while True:
        yield torch.rand(params.max_tokens, generator=generator, dtype=torch.float64)


def draw(
    logits: Float[Tensor, "rows vocabulary"],
    temperature: float,
    uniforms: Float[Tensor, " rows"],
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
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
    if min_p > 0:
        logits = logits.masked_fill(logits < logits.amax(dim=1, keepdim=True) + math.log(min_p), -torch.inf)
    if 0 < top_k < logits.shape[1]:
        values, places = logits.topk(top_k, dim=1)
        logits = torch.full_like(logits, -torch.inf).scatter_(1, places, values)
    if top_p < 1:
        logits = nucleus(logits, top_p)
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


def nucleus(logits: Float[Tensor, "rows vocabulary"], top_p: float) -> Float[Tensor, "rows vocabulary"]:
    """−inf but for the fewest most likely tokens whose probability is at least `top_p` (arXiv 1904.09751)."""
    ordered, order = logits.sort(dim=1, descending=True, stable=True)
    odds = ordered.softmax(dim=1)
    outside = odds.cumsum(dim=1) - odds >= top_p  # those before it suffice
    return ordered.masked_fill(outside, -torch.inf).gather(1, order.argsort(dim=1))


def _passed(cumulated: Float[Tensor, "rows n"], sought: Float[Tensor, "rows 1"]) -> Int[Tensor, "rows 1"]:
    """The first place where the cumulated sum is larger than the number sought; the last one if there is none."""
    return (cumulated <= sought).sum(dim=1, keepdim=True).clamp_(max=cumulated.shape[1] - 1)
