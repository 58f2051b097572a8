"""Batched generation with a KV cache, for many policies at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn."""

    max_tokens: int = 64
    temperature: float = 1.0
    """0 takes the most likely token."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a completion; the end token itself is part of it."""
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One completion, without its prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log p under the sampler (at its temperature), nats, one a token."""
    finished: bool
    """True when a stop token ended it, False when `max_tokens` did."""


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    pad_id: int,
    logits_of: Callable[..., Tensor],
) -> list[Completion]:
    """One completion a prompt.

    `logits_of(**model inputs)` runs the model and returns the last position's logits [rows, vocabulary]. Prompts are
    padded on the left; rows that have finished keep their place and are ignored.
    """
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    generator = torch.Generator(device=device).manual_seed(params.seed)
    stops = torch.tensor(params.stop_ids, dtype=torch.int64, device=device)
    cache = DynamicCache(config=model.config)
    open_rows = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens, logprobs, alive = [], [], []
    for _ in range(params.max_tokens):
        logits = logits_of(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        chosen, logprob = _draw(logits.float(), params.temperature, generator)
        tokens.append(chosen)
        logprobs.append(logprob)
        alive.append(open_rows)
        open_rows = open_rows & ~torch.isin(chosen, stops)
        if not bool(open_rows.any()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return _completions(torch.stack(tokens, 1), torch.stack(logprobs, 1), torch.stack(alive, 1), open_rows)


def _draw(
    logits: Float[Tensor, "rows vocabulary"], temperature: float, generator: torch.Generator
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Tokens and their log-probabilities."""
    logprobs = torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)
    if temperature > 0:
        chosen = torch.multinomial(logprobs.exp(), 1, generator=generator)
    else:
        chosen = logprobs.argmax(dim=-1, keepdim=True)
    return chosen[:, 0], logprobs.gather(1, chosen)[:, 0]


def _completions(
    tokens: Int[Tensor, "rows drawn"],
    logprobs: Float[Tensor, "rows drawn"],
    alive: Bool[Tensor, "rows drawn"],
    open_rows: Bool[Tensor, " rows"],
) -> list[Completion]:
    lengths = alive.sum(1).tolist()
    columns = zip(tokens.tolist(), logprobs.tolist(), lengths, open_rows.tolist(), strict=True)
    return [
        Completion(tuple(ids[:length]), tuple(scores[:length]), not still_open)
        for ids, scores, length, still_open in columns
    ]
