"""Weights that are no numbers: found when a base or an adapter is put to use, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lowregret.errors import ModelError
from lowregret.models.sharded import here

FETCH = "It is a broken download, or was saved after its training had diverged: fetch it again, or give another base."


def _alone(_: Tensor) -> None:
    """Nothing to add from elsewhere."""


def refuse_broken(
    source: str, weights: Mapping[str, Tensor], whose: str = FETCH, add: Callable[[Tensor], None] = _alone
) -> None:
    """ModelError that names the first of the weights with a number that is not finite, and counts the others.

    A sum over each weight tells: one pass through the memory, and one wait for the device. A loss would not: many
    weights are used by few rows (an embedding's, an expert's). `whose` says in a sentence what to do.
    `add` puts in a tensor's place its sum over the processes that hold parts of the weights.
    """
    if not weights:
        return
    parts = [here(weight) for weight in weights.values()]
    suspect = ~torch.isfinite(torch.stack([own.detach().sum(dtype=torch.float32) for own in parts])).cpu()
    pairs = zip(parts, suspect.tolist(), strict=True)
    counts = [int((~torch.isfinite(own)).sum()) if found else 0 for own, found in pairs]  # a sum may be too large
    everywhere = torch.tensor(counts, device=parts[0].device)
    add(everywhere)
    found = [
        all_of if own is not weight else count  # what is not in parts is the same everywhere
        for own, weight, all_of, count in zip(parts, weights.values(), everywhere.tolist(), counts, strict=True)
    ]
    broken = [(name, count) for name, count in zip(weights, found, strict=True) if count]
    if not broken:
        return
    (name, count), total = broken[0], weights[broken[0][0]].numel()
    more = f", and {len(broken) - 1:,} more of its weights do" if len(broken) > 1 else ""
    raise ModelError(
        f"{source}: {name.removesuffix('.weight')} holds numbers that are not finite ({count:,} of its "
        f"{total:,}){more}. {whose}"
    )


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """What a model's files hold, tied weights once: its parameters, and the numbers that it keeps beside them."""
    kept = model.state_dict(keep_vars=True).keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    return {name: tensor for name, tensor in [*model.named_parameters(), *buffers] if tensor.is_floating_point()}
