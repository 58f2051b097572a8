"""Completions by all ranks: who completes which prompts, and everybody's to every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.sampling.choose import refuse_empty
from lowregret.engine.sampling.decode import Prompts
from lowregret.engine.sampling.draw import Completion

Complete = Callable[[Mapping[str, Sequence[int]]], dict[str, list[Completion]]]
"""Gives the completions of the prompts at these places of each policy, in this order."""


def completed(
    ranks: Ranks,
    device: torch.device,
    prompts: Prompts,
    complete: Complete,
    agreed: Callable[[Callable[[], dict[str, list[Completion]]]], dict[str, list[Completion]]],
) -> dict[str, list[Completion]]:
    """One completion for each prompt of each policy, of which `complete` is asked for a rank's own.

    Ranks that share experts or matrices complete the same. `agreed` is asked for a rank's own (`Ranks.agreed`).
    SpecError on all ranks for a prompt that one would refuse.
    """
    places = {name: range(len(group)) for name, group in prompts.items()}
    if ranks.replicas.count == 1:
        return agreed(lambda: complete(places))
    refuse_empty(prompts)
    dealt = deal_prompts(prompts, ranks.replicas.count)
    mine = {name: by_rank[ranks.replicas.rank] for name, by_rank in dealt.items()}
    return _gather(ranks, device, dealt, agreed(lambda: complete(mine)))


def deal_prompts(prompts: Prompts, count: int) -> dict[str, list[list[int]]]:
    """The places of the prompts that each rank completes, by policy and rank.

    In turn; equal prompts of a policy go together, for they are read once, unless that would leave a rank without any.
    """
    asked = [(name, place, tuple(prompt)) for name, group in prompts.items() for place, prompt in enumerate(group)]
    different = dict.fromkeys((name, prompt) for name, _, prompt in asked)
    turn = {key: number % count for number, key in enumerate(different)}
    dealt: dict[str, list[list[int]]] = {name: [[] for _ in range(count)] for name in prompts}
    for number, (name, place, prompt) in enumerate(asked):
        owner = turn[name, prompt] if len(different) >= count else number % count
        dealt[name][owner].append(place)
    return dealt


def _gather(
    ranks: Ranks,
    device: torch.device,
    dealt: Mapping[str, Sequence[Sequence[int]]],
    own: Mapping[str, Sequence[Completion]],
) -> dict[str, list[Completion]]:
    """By two exchanges, of lengths and of what is so long; each number is one rank's, so that sums are exact."""
    rows = [(name, place) for name, by_rank in dealt.items() for place in range(sum(map(len, by_rank)))]
    number = {row: index for index, row in enumerate(rows)}
    mine = [
        (number[name, place], completion)
        for name, found in own.items()
        for place, completion in zip(dealt[name][ranks.replicas.rank], found, strict=True)
    ]
    ends = torch.zeros(len(rows), 2, dtype=torch.int64)
    for row, completion in mine:
        ends[row] = torch.tensor([len(completion.token_ids), completion.finished])
    ends = _added(ranks, device, ends)
    longest = int(ends[:, 0].max()) if rows else 0
    tokens, scores = torch.zeros(len(rows), longest, dtype=torch.int64), torch.zeros(len(rows), longest)
    for row, completion in mine:
        tokens[row, : ends[row, 0]] = torch.tensor(completion.token_ids, dtype=torch.int64)
        scores[row, : ends[row, 0]] = torch.tensor(completion.logprobs)
    every = zip(
        _added(ranks, device, tokens).tolist(), _added(ranks, device, scores).tolist(), ends.tolist(), strict=True
    )
    found: dict[str, list[Completion]] = {name: [] for name in dealt}
    for (name, _), (ids, logprobs, (length, finished)) in zip(rows, every, strict=True):
        found[name].append(Completion(tuple(ids[:length]), tuple(logprobs[:length]), bool(finished)))
    return found


def _added(ranks: Ranks, device: torch.device, numbers: torch.Tensor) -> torch.Tensor:
    everyones = numbers.to(device)
    ranks.replicas.add(everyones)
    return everyones.cpu()
