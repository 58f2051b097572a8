"""Requests of many clients as passes of the engine, and what comes back of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lowregret.data.batches import Batch, passes
from lowregret.engine.engine import Engine
from lowregret.engine.losses import Loss
from lowregret.engine.sampling.likely import likely_next
from lowregret.serve.tinker.ledger import Answer
from lowregret.serve.tinker.losses import LOSSES
from lowregret.serve.tinker.tensors import CELLS, Array, Passing, of_data, to_batch
from lowregret.serve.tinker.work import Score


def pass_all(engine: Engine, asked: Mapping[str, Passing], pass_tokens: int) -> dict[str, Answer]:
    """Pass each policy's data, all forward alone or all backward too, `pass_tokens` positions at a time.

    An answer has `logprobs/N` of datum N, nats, and the metric `loss:sum`.
    """
    batches = {name: to_batch(own, engine.base.pad_id) for name, own in asked.items()}
    losses = {name: LOSSES[own.loss].of(own.config) for name, own in asked.items()}
    backward = not any(own.forward_only for own in asked.values())
    found = _logprobs(engine, batches, losses if backward else None, pass_tokens)
    answers = {}
    for name, own in asked.items():
        told = of_data(own, found[name])
        values = {"metrics": {"loss:sum": _loss(batches[name], losses[name], found[name])}, "data": len(told)}
        answers[name] = Answer(values, {f"logprobs/{number}": value for number, value in enumerate(told)})
    return answers


def _logprobs(
    engine: Engine, batches: Mapping[str, Batch], losses: Mapping[str, Loss] | None, pass_tokens: int
) -> dict[str, Array]:
    """log p of every target of each batch, in its shape; with `losses` gradients are left behind."""
    found = {name: np.zeros(batch.targets.shape, np.float32) for name, batch in batches.items()}
    for part in passes(batches, pass_tokens):
        results = engine.forward(part) if losses is None else engine.forward_backward(part, losses)
        for name, result in results.items():
            own = part[name]
            filled = torch.zeros(own.targets.shape)
            filled[own.supervised] = result.logprobs.float().cpu().view(-1, *own.targets.shape[2:])
            found[name][own.numbers.numpy(), : own.targets.shape[1]] = filled.numpy()
    return found


def _loss(batch: Batch, loss: Loss, logprobs: Array) -> float:
    """A batch's loss by its log-probabilities, in float64."""
    there = batch.supervised
    columns = {name: column[there].flatten().double() for name, column in batch.columns.items()}
    own = torch.from_numpy(logprobs)[there].flatten().double()
    return float(loss(own, batch.weights[there].flatten().double(), **columns))


def score_all(engine: Engine, scores: Sequence[Score], pass_tokens: int) -> list[dict[str, Any]]:
    """Of each prompt: `logprobs` of its tokens, the first's not a number; and what else was asked for, as `top_ids` and
    `top_logprobs`, `targets`."""
    rows: dict[str, list[int]] = {}
    for number, score in enumerate(scores):
        if len(score.prompt) > 1:
            rows.setdefault(score.policy, []).append(number)
    batches = {name: _prompts(engine, [scores[number] for number in own]) for name, own in rows.items()}
    found = _logprobs(engine, batches, None, pass_tokens) if batches else {}
    told: list[dict[str, Any]] = [{"logprobs": np.full(len(score.prompt), np.nan, np.float32)} for score in scores]
    for name, numbers in rows.items():
        for row, number in enumerate(numbers):
            size = len(scores[number].prompt) - 1
            told[number]["logprobs"][1:] = found[name][row, :size, 0]
            asked = scores[number].targets
            if asked is not None:
                own = found[name][row, :size, 1 : 1 + asked.shape[1]]
                told[number]["targets"] = np.where(asked < 0, np.float32(0), own)
    for score, about in zip(scores, told, strict=True):
        if score.top:
            ids, logprobs = likely_next(engine, score.policy, score.prompt, score.top)
            about["top_ids"] = np.pad(ids.numpy().astype(np.int32), ((1, 0), (0, 0)))
            about["top_logprobs"] = np.pad(logprobs.numpy(), ((1, 0), (0, 0)), constant_values=NOTHING)
    return told


NOTHING = -99999.0
"""The log-probability that Tinker's SDK reads as none."""


def together(scores: Sequence[Score]) -> int:
    """How many of these, from the first on, may be one batch: at least one."""
    longest = deepest = 0
    for number, score in enumerate(scores):
        longest = max(longest, len(score.prompt))
        deepest = max(deepest, 1 + (0 if score.targets is None else score.targets.shape[1]))
        if number and (number + 1) * longest * deepest > CELLS:
            return number
    return len(scores)


def _prompts(engine: Engine, scores: Sequence[Score]) -> Batch:
    """Prompts as one batch: at each position its next token, and behind it the other targets."""
    width = max(len(score.prompt) for score in scores) - 1
    deep = 1 + max(0 if score.targets is None else score.targets.shape[1] for score in scores)
    ids = torch.full((len(scores), width), engine.base.pad_id)
    targets = torch.full((len(scores), width, deep), engine.base.pad_id)
    supervised = torch.zeros(len(scores), width, dtype=torch.bool)
    for row, score in enumerate(scores):
        size = len(score.prompt) - 1
        prompt = torch.tensor(list(score.prompt))
        ids[row, :size], targets[row, :size, 0] = prompt[:-1], prompt[1:]
        supervised[row, :size] = True
        if score.targets is not None:
            others = torch.from_numpy(np.maximum(score.targets, 0).astype(np.int64))
            targets[row, :size, 1 : 1 + others.shape[1]] = others
    lengths = torch.tensor([len(score.prompt) - 1 for score in scores])
    weights = torch.zeros(targets.shape)
    return Batch(ids, targets, supervised, weights, torch.arange(len(scores)), lengths)
