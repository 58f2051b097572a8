"""What a client sends to be trained on, and the batch that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lowregret.data.batches import Batch
from lowregret.serve.problems import Problem
from lowregret.serve.tinker.losses import LOSSES

Array = npt.NDArray[Any]
DATA = 4096
"""Data of one request, at most: the SDK cuts longer lists at 1,024."""
NAMED = 20
"""Inputs of a loss, or settings, that are read at most: none has so many."""
TARGETS = 256
"""Of a position, at most."""
CELLS = 2**24
"""Numbers of one tensor, at most."""
BATCH_CELLS = 2**26
"""Targets of one request, at most, when all its data are as long and as deep as the largest: so they are passed."""


@dataclass
class Datum:
    """Tokens, and what the loss takes of each."""

    tokens: Array
    inputs: dict[str, Array]


@dataclass
class Passing:
    """A request to pass data forward, and backward."""

    model_id: str
    seq_id: int | None
    loss: str
    config: dict[str, float | str]
    data: list[Datum]
    forward_only: bool


def shaped(flat: Array, shape: Sequence[int]) -> Array:
    """Numbers in a shape, a list where there is none. Problem 400 where they do not fill it: of nothing a shape may say
    sizes that no array has."""
    if not shape:
        return flat
    beyond = len(shape) > 2 or min(shape) < 0 or max(shape) > CELLS
    if beyond or shape[0] * (shape[1] if len(shape) == 2 else 1) != flat.size:
        raise Problem(400, f"A tensor of shape {str(list(shape[:8]))[:100]} has {flat.size} numbers.")
    return flat.reshape(tuple(shape))


def sparse(values: Array, rows: Array, columns: Array, shape: Sequence[int]) -> Array:
    """A matrix from its compressed rows, zero where nothing is listed. Problem 400 where they do not fit."""
    if len(shape) != 2 or min(shape) < 0 or max(shape) > CELLS or shape[0] * shape[1] > CELLS:
        raise Problem(400, f"A sparse tensor needs a shape of two sizes with up to {CELLS:,} cells.")
    fits = len(rows) == shape[0] + 1 and len(values) == len(columns)
    fits = fits and rows[0] == 0 and rows[-1] == len(values) and bool((np.diff(rows) >= 0).all())
    if not fits or (len(columns) and not 0 <= columns.min() <= columns.max() < shape[1]):
        raise Problem(400, "A sparse tensor's rows and columns do not fit its shape.")
    found = np.zeros(tuple(shape), values.dtype)
    found[np.repeat(np.arange(shape[0]), np.diff(rows)), columns] = values
    return found


def check(passing: Passing, vocabulary: int, positions: int | None) -> None:
    """Problem 400 for data that cannot be passed: nothing is accepted that would fail later."""
    if not 0 < len(passing.data) <= DATA:
        raise too_many()
    entry = LOSSES.get(passing.loss)
    if entry is None:
        raise Problem(400, f"loss_fn: {passing.loss[:50]!r} is none here. Valid: {', '.join(LOSSES)}.")
    entry.check(passing.config)
    _fits(passing)
    for number, datum in enumerate(passing.data):
        place = f"data[{number}]"
        length = len(datum.tokens)
        if not 0 < length <= (positions or length):
            raise Problem(400, f"{place}: {length} tokens; this model has {positions or 'any number of'} positions.")
        _tokens(datum.tokens, vocabulary, f"{place}.model_input")
        unknown = sorted(set(datum.inputs) - {"target_tokens", "weights", *entry.columns})
        missing = [name for name in ("target_tokens", *entry.columns) if name not in datum.inputs]
        if unknown or missing:
            valid = ", ".join(("target_tokens", "weights", *entry.columns))
            said = f"{unknown[0][:50]!r} is none of {passing.loss}'s" if unknown else f"{missing[0]} is missing"
            raise Problem(400, f"{place}.loss_fn_inputs: {said}. It takes {valid}.")
        shape = datum.inputs["target_tokens"].shape
        if shape[:1] != (length,) or len(shape) > 2 or (len(shape) == 2 and not 0 < shape[1] <= TARGETS):
            raise Problem(
                400,
                f"{place}: target_tokens have shape {list(shape)[:4]}; {length} tokens need [{length}], or "
                f"[{length}, K] with K up to {TARGETS}.",
            )
        if datum.inputs["target_tokens"].dtype.kind != "i":
            raise Problem(400, f"{place}: target_tokens are whole numbers.")
        _tokens(datum.inputs["target_tokens"], vocabulary, f"{place}.target_tokens")
        for name, values in datum.inputs.items():
            if values.shape != shape:
                raise Problem(
                    400, f"{place}: {name} has shape {list(values.shape)[:4]}, and target_tokens {list(shape)}."
                )
            if not np.isfinite(values).all():
                raise Problem(400, f"{place}: {name} has a number that is not finite.")


def too_many() -> Problem:
    """Of data, or none."""
    return Problem(400, f"data: 1 to {DATA} are taken at once.")


def _fits(passing: Passing) -> None:
    """Problem 400 for data that would be too much as one batch, whatever little they say."""
    longest = max(len(datum.tokens) for datum in passing.data)
    targets = [datum.inputs["target_tokens"].shape for datum in passing.data if "target_tokens" in datum.inputs]
    deepest = max((shape[1] for shape in targets if len(shape) == 2), default=1)
    if len(passing.data) * longest * deepest > BATCH_CELLS:
        raise Problem(
            400,
            f"data: {len(passing.data)} with up to {longest} tokens of up to {deepest} targets each are more than "
            f"{BATCH_CELLS:,} targets. Send fewer at once, or those that are alike together.",
        )


def _tokens(ids: Array, vocabulary: int, place: str) -> None:
    if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
        raise Problem(400, f"{place}: a token that is none of 0 to {vocabulary - 1}.")


def to_batch(passing: Passing, pad_id: int) -> Batch:
    """All data as one batch, whose positions all count: what weighs nothing is told its log-probability too.

    Losses are sums over tokens by the client's weights, 1 where it gives none.
    """
    data, columns = passing.data, LOSSES[passing.loss].columns
    width = max(len(datum.tokens) for datum in data)
    deep = max((datum.inputs["target_tokens"].shape[1] for datum in data if _deep(datum)), default=0)
    shape = (len(data), width, deep) if deep else (len(data), width)
    ids = np.full(shape[:2], pad_id, np.int64)
    supervised = np.zeros(shape[:2], bool)
    targets = np.full(shape, pad_id, np.int64)
    floats = {name: np.zeros(shape, np.float32) for name in ("weights", *columns)}
    for row, datum in enumerate(data):
        length = len(datum.tokens)
        ids[row, :length] = datum.tokens
        supervised[row, :length] = True
        own = datum.inputs["target_tokens"]
        part: Any = (row, slice(length), slice(own.shape[1])) if _deep(datum) else (row, slice(length))
        if deep and not _deep(datum):
            part = (row, slice(length), 0)
        targets[part] = own
        for name, value in floats.items():
            value[part] = datum.inputs.get(name, 1.0)
    weights = torch.from_numpy(floats.pop("weights"))
    tensors = {LOSSES[passing.loss].spelled(name): torch.from_numpy(value) for name, value in floats.items()}
    lengths = torch.tensor([len(datum.tokens) for datum in data])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(targets),
        torch.from_numpy(supervised),
        weights,
        torch.arange(len(data)),
        lengths,
        tensors,
    )


def _deep(datum: Datum) -> bool:
    return datum.inputs["target_tokens"].ndim == 2


def of_data(passing: Passing, logprobs: Array) -> list[Array]:
    """Log-probabilities [data, length (, targets)] as each datum has them, float32."""
    found = []
    for row, datum in enumerate(passing.data):
        shape = datum.inputs["target_tokens"].shape
        own = logprobs[row, : shape[0]]
        if logprobs.ndim == 3:
            own = own[:, : shape[1]] if len(shape) == 2 else own[:, 0]
        found.append(np.ascontiguousarray(own, np.float32))
    return found
