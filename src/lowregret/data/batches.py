"""Examples → padded batches of tensors, in an order that a seed decides.

Whoever builds the batch normalises (DESIGN.md, principle 5): the weights of a batch sum to one over its supervised
tokens, and splitting the batch afterwards changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from lowregret.data.chat import Example

EVAL_TOKENS = 4096
"""Padded tokens in a held-out batch: fixed, so that `eval` repeats the number that training reported."""


@dataclass(frozen=True)
class Batch:
    """Right-padded rows; position t predicts the token at t + 1."""

    input_ids: Int64[Tensor, "rows length"]
    targets: Int64[Tensor, "rows length"]
    """The next token."""
    supervised: Bool[Tensor, "rows length"]
    """Whether the prediction of this position counts."""
    weights: Float32[Tensor, "rows length"]
    """Its share in the loss; 0 where not supervised."""

    @property
    def rows(self) -> int:
        return self.input_ids.shape[0]

    @property
    def tokens(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids.numel()

    def split(self, rows: int) -> Iterator[Batch]:
        """The same batch in pieces of at most `rows` rows, weights unchanged, common padding trimmed."""
        for start in range(0, self.rows, rows):
            part = slice(start, start + rows)
            columns = self.supervised[part].any(dim=0).nonzero()
            used = int(columns[-1]) + 1 if len(columns) else 1
            yield Batch(
                *(tensor[part, :used] for tensor in (self.input_ids, self.targets, self.supervised, self.weights))
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
    return Batch(*(torch.from_numpy(array) for array in (inputs, targets, supervised, weights)))


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
