"""Held-out examples through an engine, in batches that do not depend on how many processes there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from lowregret.activity import Activity, doing
from lowregret.data.batches import EVAL_TOKENS, Batch, collate, eval_groups
from lowregret.data.example import Example
from lowregret.data.table import token_counts
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.result import PassResult

EVAL_PASS_TOKENS = 4 * EVAL_TOKENS
"""Tokens of all policies in a held-out pass."""


def sums_of(
    policies: Sequence[str],
    examples: Sequence[Example],
    forward: Callable[[Mapping[str, Batch]], dict[str, PassResult]],
    pad_id: int,
    ranks: Ranks,
    device: torch.device,
    finish: Callable[[], None],
    agreed: Callable[[Callable[[], torch.Tensor]], torch.Tensor],
) -> dict[str, tuple[list[float], list[int]]]:
    """What `Engine.evaluate` promises; `forward` computes all rows that it is given, on this rank alone; `finish` is
    called when no batch is left for it; `agreed` is asked for all of this (`Ranks.agreed`)."""
    sums = agreed(lambda: _own_sums(policies, examples, forward, pad_id, ranks, finish)).to(device)
    ranks.add(sums)
    counts = [sum(example.supervised[1:]) for example in examples]
    return {name: (own.tolist(), list(counts)) for name, own in zip(policies, sums.cpu(), strict=True)}


def _own_sums(
    policies: Sequence[str],
    examples: Sequence[Example],
    forward: Callable[[Mapping[str, Batch]], dict[str, PassResult]],
    pad_id: int,
    ranks: Ranks,
    finish: Callable[[], None],
) -> torch.Tensor:
    """Nats of [policy, example], float64; zero for the examples of other ranks."""
    sums = torch.zeros(len(policies), len(examples), dtype=torch.float64)
    groups = eval_groups(token_counts(examples).tolist(), EVAL_TOKENS)
    with doing("evaluating", len(examples)) as evaluating:
        _fill(sums, groups, policies, examples, forward, pad_id, ranks, evaluating)
    finish()
    return sums


def _fill(
    sums: torch.Tensor,
    groups: Sequence[Sequence[int]],
    policies: Sequence[str],
    examples: Sequence[Example],
    forward: Callable[[Mapping[str, Batch]], dict[str, PassResult]],
    pad_id: int,
    ranks: Ranks,
    evaluating: Activity,
) -> None:
    """Its own groups of all."""
    for turn in range(math.ceil(len(groups) / ranks.data.count)):
        number = turn * ranks.data.count + ranks.data.rank
        group = groups[min(number, len(groups) - 1)]  # without one left: no pass may lack a rank
        batch = collate([examples[index] for index in group], pad_id)
        together = _together([examples[index] for index in group])
        last = (len(policies) - 1) // together
        # As many passes on every rank, whatever its group: a pass may need them all. Who is done repeats its last.
        beside = groups[turn * ranks.data.count : (turn + 1) * ranks.data.count]
        passes = max(math.ceil(len(policies) / _together([examples[index] for index in own])) for own in beside)
        for start in (min(place, last) * together for place in range(passes)):
            results = forward(dict.fromkeys(policies[start : start + together], batch))
            for place, result in enumerate(results.values(), start):
                per_row = torch.zeros(batch.supervised.shape, dtype=torch.float64)
                per_row[batch.supervised] = -result.logprobs.cpu().double()
                sums[place, group] = per_row.sum(1) if number < len(groups) else 0.0
        evaluating.advance(sum(map(len, beside)))


def _together(examples: Sequence[Example]) -> int:
    """How many policies share a pass over these."""
    computed = [max((place for place, own in enumerate(one.supervised) if own), default=1) for one in examples]
    return max(EVAL_PASS_TOKENS // sum(max(tokens, 1) for tokens in computed), 1)
