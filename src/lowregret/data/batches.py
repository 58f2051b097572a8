"""Examples → padded batches of tensors, in an order that a seed decides.

Whoever builds the batch normalises (docs/design.md, principle 5): the weights of a batch sum to one over its supervised
tokens, and splitting the batch afterwards changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from lowregret.data.example import Example

EVAL_TOKENS = 4096
"""Padded tokens in a held-out batch: fixed, so that `eval` repeats the number that training reported."""

SHARED_LEAST = 8
"""Leading tokens that rows must have in common for a pass to compute them once. Measured on a CPU, bundled base:
pairs of rows break even at 8, groups of eight gain from 4 on."""


@dataclass(frozen=True)
class Batch:
    """Right-padded rows; position t predicts the token at t + 1."""

    input_ids: Int64[Tensor, "rows length"]
    targets: Int64[Tensor, "rows length *each"]
    """The next token; or several tokens a position, as many everywhere, each with a weight and a log-probability."""
    supervised: Bool[Tensor, "rows length"]
    """Whether the prediction of this position counts."""
    weights: Float32[Tensor, "rows length *each"]
    """Its share in the loss; 0 where not supervised."""
    numbers: Int64[Tensor, " rows"]
    """Each row's number in the batch of its optimizer step, however that is cut into passes."""
    lengths: Int64[Tensor, " rows"]
    """Tokens of each row, those behind its last supervised one included."""
    columns: Mapping[str, Float32[Tensor, "rows length *each"]] = field(default_factory=dict)
    """What else the loss takes, by the names of its arguments: a number a target."""
    prompts: Int64[Tensor, " rows"] | None = None
    """Rows of equal numbers begin with the same tokens, at least up to where one of them is supervised."""

    @property
    def rows(self) -> int:
        return self.input_ids.shape[0]

    @property
    def each(self) -> int:
        """Targets of a position."""
        return self.targets.shape[2] if self.targets.ndim == 3 else 1

    @property
    def used(self) -> Int64[Tensor, " rows"]:
        """Positions to compute per row: up to its last supervised one, and at least one."""
        positions = torch.arange(1, self.supervised.shape[1] + 1)
        return (self.supervised * positions).amax(dim=1).clamp(min=1)

    @property
    def shared(self) -> Int64[Tensor, " rows"]:
        """Leading positions of each row that are computed once for all rows of its prompt; 0 for one that has its own.

        None of them is supervised, so that each supervised position belongs to one row.
        """
        if self.prompts is None:
            return torch.zeros(self.rows, dtype=torch.int64)
        first = self.supervised.int().argmax(dim=1)
        _, group, rows = torch.unique(self.prompts, return_inverse=True, return_counts=True)
        common = torch.full_like(rows, self.supervised.shape[1]).scatter_reduce_(0, group, first, "amin")
        return torch.where((rows > 1) & (common >= SHARED_LEAST), common, 0)[group]

    @property
    def leaders(self) -> Int64[Tensor, " rows"]:
        """The first row of those that share its leading positions; each row's own index where none are shared."""
        own = torch.arange(self.rows)
        if self.prompts is None:
            return own
        _, group = torch.unique(self.prompts, return_inverse=True)
        first = torch.full_like(own, self.rows).scatter_reduce_(0, group, own, "amin")[group]
        return torch.where(self.shared > 0, first, own)

    @property
    def tokens(self) -> int:
        """Positions to compute in all: what a pass costs. Padding, and what follows the last answer, is free."""
        followers = self.leaders != torch.arange(self.rows)
        return int(self.used.sum() - (self.shared * followers).sum())

    def select(self, rows: Sequence[int]) -> Batch:
        """These rows in this order, weights unchanged, without the padding that all of them share."""
        index = torch.tensor(rows)
        length = int(self.used[index].max())
        always = ("input_ids", "targets", "supervised", "weights")
        return replace(
            self,
            numbers=self.numbers[index],
            lengths=self.lengths[index],
            columns={name: column[index, :length] for name, column in self.columns.items()},
            prompts=None if self.prompts is None else self.prompts[index],
            **{name: getattr(self, name)[index, :length] for name in always},
        )


def collate(examples: Sequence[Example], pad_id: int = 0) -> Batch:
    """One batch of these examples; each supervised token weighs 1 / (supervised tokens of the batch)."""
    length = max(len(example.token_ids) for example in examples) - 1
    shape = (len(examples), max(length, 1))
    inputs = np.full(shape, pad_id, dtype=np.int64)
    targets = np.full(shape, pad_id, dtype=np.int64)
    supervised = np.zeros(shape, dtype=bool)
    for row, example in enumerate(examples):
        n = len(example.token_ids) - 1
        inputs[row, :n] = example.token_ids[:-1]
        targets[row, :n] = example.token_ids[1:]
        supervised[row, :n] = example.supervised[1:]
    weights = supervised.astype(np.float32) / max(int(supervised.sum()), 1)
    numbers = np.arange(len(examples), dtype=np.int64)
    lengths = np.array([len(example.token_ids) for example in examples], dtype=np.int64)
    columns = map(torch.from_numpy, (inputs, targets, supervised, weights, numbers, lengths))
    input_ids, target_ids, mask, shares, order, tokens = columns
    return Batch(input_ids, target_ids, mask, shares, order, tokens)


def passes(
    batches: Mapping[str, Batch], max_tokens: int | None = None, max_rows: int | None = None
) -> list[dict[str, Batch]]:
    """The batches of one optimizer step cut into passes whose gradients add up to that of the whole.

    A pass computes at most `max_tokens` positions, or one row if that row alone is longer, and holds at most
    `max_rows` rows of a policy. Weights stay what they are, so nothing has to be normalised again. Rows go policy by
    policy, the longest first, but those that share positions next to each other: a policy is in as few passes as can
    be, little is computed twice, and a pass that needs too much memory comes early. There are as few passes as this
    order allows, and their largest is as small as it can be with so many.
    """
    if max_rows is None and (max_tokens is None or sum(batch.tokens for batch in batches.values()) <= max_tokens):
        return [dict(batches)]
    found: list[dict[str, Batch]] = []
    for group in _row_groups(batches, max_rows):
        rows = [(name, row) for name, members in group.items() for row in members]
        start = 0
        for stop in _cuts([(row.length, row.length - row.saved) for _, row in rows], max_tokens):
            chosen: dict[str, list[int]] = {}
            for name, row in rows[start:stop]:
                chosen.setdefault(name, []).append(row.index)
            found.append({name: batches[name].select(members) for name, members in chosen.items()})
            start = stop
    return found


@dataclass(frozen=True)
class _Row:
    """A row of a batch, and what it costs."""

    index: int
    length: int
    """Positions that it uses."""
    saved: int
    """Those that it need not compute in the same pass as the row before it in order."""


def _row_groups(batches: Mapping[str, Batch], max_rows: int | None) -> list[dict[str, list[_Row]]]:
    """The rows of every policy in order, dealt out by at most `max_rows` of each policy."""
    groups: list[dict[str, list[_Row]]] = []
    for name, batch in batches.items():
        rows = _in_order(batch)
        parts = math.ceil(len(rows) / (max_rows or len(rows)))
        size = math.ceil(len(rows) / parts)
        for part in range(parts):
            if part == len(groups):
                groups.append({})
            groups[part][name] = rows[part * size : (part + 1) * size]
    return groups


def _in_order(batch: Batch) -> list[_Row]:
    """Rows that share positions next to each other, the longest of them first; so are they among the others."""
    used, shared, leaders = batch.used.tolist(), batch.shared.tolist(), batch.leaders.tolist()
    longest: dict[int, int] = {}
    for leader, length in zip(leaders, used, strict=True):
        longest[leader] = max(longest.get(leader, 0), length)
    order = sorted(range(batch.rows), key=lambda row: (-longest[leaders[row]], leaders[row], -used[row]))
    before = [-1, *(leaders[row] for row in order)]
    return [
        _Row(row, used[row], shared[row] * (leaders[row] == last)) for row, last in zip(order, before, strict=False)
    ]


def _cuts(costs: Sequence[tuple[int, int]], max_tokens: int | None) -> list[int]:
    """Where each pass ends over rows of these costs, in their order: of each, first in its pass and behind another."""
    if max_tokens is None:
        return [len(costs)]

    def filled(limit: int) -> list[int]:
        stops, tokens = [], 0
        for row, (first, behind) in enumerate(costs):
            if tokens and tokens + behind > limit:
                stops.append(row)
                tokens = 0
            tokens += behind if tokens else first
        return [*stops, len(costs)]

    # The number of passes never grows with the limit, so the smallest limit with as few passes is found by halving.
    low, high = 1, min(max_tokens, sum(first for first, _ in costs))
    fewest = len(filled(high))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(filled(middle)) <= fewest else (middle + 1, high)
    return filled(high)


@lru_cache(maxsize=2)
def training_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which one pass visits the examples: int64 [examples]."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def batch_indices(examples: int, batch_size: int, seed: int, step: int, last: int | None = None) -> list[int]:
    """The examples of one optimizer step (from 0): a window on an endless chain of passes.

    `last` ends the chain after so many examples, so that a run of whole epochs ends with a smaller batch.
    """
    start = step * batch_size
    stop = start + batch_size if last is None else min(start + batch_size, last)
    found: list[int] = []
    position = start
    while position < stop:
        epoch, offset = divmod(position, examples)
        taken = training_order(examples, seed, epoch)[offset : offset + stop - position]
        found.extend(taken.tolist())
        position += len(taken)
    return found


def eval_groups(lengths: Sequence[int], tokens: int = EVAL_TOKENS) -> list[list[int]]:
    """Indices of examples grouped by length, each group at most `tokens` when padded (one example at least)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
