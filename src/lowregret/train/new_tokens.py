"""Said before training: that answers have tokens which the base never writes, and a LoRA leaves the unembedding out.

Such a token's row of the unembedding points away from every hidden state that the base has, and adapters inside the
layers must turn all of these states to reach it (docs/findings/2026-11-28-unembedding.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.models.targets import find_targets
from lowregret.spec import FullFT, LoRA

SAMPLE = 48
"""Training examples that are looked at, evenly spaced over all."""
_ROWS = 8
"""Of a pass."""
NEVER = 1e-4
"""A probability that is next to none: what the base gives to a type of token in none of its places."""
SHARE = 0.1
"""Of supervised tokens: where fewer are of such types, little of the loss can be theirs."""
_NAMED = 8


def new_token_lines(engine: Engine, examples: Sequence[Example], methods: Iterable[FullFT | LoRA]) -> list[str]:
    """A warning, or nothing.

    The base is measured, without any policy: a few dozen examples, only where a LoRA without the unembedding is asked.
    """
    without = [method for method in methods if isinstance(method, LoRA) and not _adapts_unembedding(engine, method)]
    if not without or not examples:
        return []
    best, counts, sampled = highest_probabilities(engine, examples)
    new = sorted((kind for kind in best if best[kind] < NEVER), key=lambda kind: (-counts[kind], kind))
    found, supervised = sum(counts[kind] for kind in new), sum(counts.values())
    if not found or found < SHARE * supervised:
        return []
    named = ", ".join(repr(engine.base.tokenizer.decode([kind])) for kind in new[:_NAMED])
    named += f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
    names, others = ", ".join(method.name for method in without), ", ".join(map(_with_unembedding, without))
    return [
        f"warning: {found:,} of {supervised:,} supervised tokens in {sampled} training examples are of types to which "
        f"the base gives a probability below {NEVER:g} wherever they occur ({named}). Without the unembedding a LoRA "
        f"learns such tokens badly: instead of {names} use {others}."
    ]


def highest_probabilities(
    engine: Engine, examples: Sequence[Example]
) -> tuple[Mapping[int, float], Mapping[int, int], int]:
    """(token → the base's highest probability of it where it is the supervised one, token → how often that is, examples
    looked at)."""
    step = max(1, -(-len(examples) // SAMPLE))
    sample = sorted(examples[::step], key=lambda example: len(example.token_ids))
    best: dict[int, float] = {}
    counts: dict[int, int] = {}
    for start in range(0, len(sample), _ROWS):
        batch = collate(sample[start : start + _ROWS], engine.base.pad_id)
        found = engine.forward({"base": batch})["base"]
        targets = batch.targets[found.supervised].tolist()
        for token, logprob in zip(targets, found.logprobs.to(torch.float32).tolist(), strict=True):
            best[token] = max(best.get(token, 0.0), math.exp(logprob))
            counts[token] = counts.get(token, 0) + 1
    return best, counts, len(sample)


def _adapts_unembedding(engine: Engine, method: LoRA) -> bool:
    found = find_targets(engine.model, engine.matrices, method.targets)
    return any(matrix.group == "unembedding" for matrix in found)


def _with_unembedding(method: LoRA) -> str:
    if method.targets[0].startswith("re:"):
        return f"{method.name} with the unembedding in its regex"
    return LoRA(**{**dict(method), "targets": (*method.targets, "unembedding")}).name
