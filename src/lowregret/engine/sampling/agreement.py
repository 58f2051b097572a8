"""Whether what another program drew is what the engine would have drawn by: log-probabilities of the same tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowregret.data.batches import Batch
from lowregret.engine.engine import Engine
from lowregret.engine.sampling.draw import Completion, SamplingParams

ROWS = 8
"""Completions of each policy that are looked at."""
WARNED, REFUSED = 0.02, 0.2
"""Nats from the engine's, a token, on average: above, it is said, and above, it is an error. Chosen: rounding in
bfloat16 moves a log-probability by about 0.01, another model or temperature by far more."""


@dataclass(frozen=True)
class Agreement:
    """How far log-probabilities of tokens are from the engine's, nats."""

    tokens: int
    mean: float
    """Of the absolute distances."""
    policy: str
    """The one whose mean this is: the worst."""


def agreement(
    engine: Engine,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    drawn: Mapping[str, Sequence[Completion]],
    params: SamplingParams,
) -> Agreement:
    """Of each policy's first completions, under `params`; the policy that is worst.

    With top_p below 1 the sampler's are those within its set: up to −log(top_p) above the engine's, which counts as no
    distance. A completion without tokens says nothing.
    """
    worst = Agreement(0, 0.0, "")
    for policy, completions in drawn.items():
        pairs = [
            (list(prompt), completion)
            for prompt, completion in zip(prompts[policy], completions, strict=True)
            if completion.token_ids
        ][:ROWS]
        if not pairs:
            continue
        own = engine.forward({policy: _batch(pairs, engine.base.pad_id)}, temperature=params.temperature or 1.0)
        theirs = torch.tensor([value for _, completion in pairs for value in completion.logprobs])
        above = theirs - own[policy].logprobs.cpu().float()
        room = -math.log(params.top_p) if params.temperature else 0.0
        mean = float(torch.where(above > 0, (above - room).clamp(min=0), -above).mean())
        if not worst.tokens or not mean <= worst.mean:
            worst = Agreement(len(theirs), mean, policy)
        if math.isnan(mean):
            break
    return worst


def _batch(pairs: Sequence[tuple[list[int], Completion]], pad_id: int) -> Batch:
    """Prompts with their completions, whose tokens count."""
    rows = [[*prompt, *completion.token_ids] for prompt, completion in pairs]
    width = max(map(len, rows)) - 1
    ids, targets = (torch.full((len(rows), width), pad_id) for _ in range(2))
    counts: Tensor = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, (row, (prompt, _)) in enumerate(zip(rows, pairs, strict=True)):
        ids[number, : len(row) - 1], targets[number, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
        counts[number, len(prompt) - 1 : len(row) - 1] = True
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(ids, targets, counts, torch.zeros(ids.shape), torch.arange(len(rows)), lengths)
