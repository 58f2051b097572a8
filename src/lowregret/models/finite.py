"""Weights that are no numbers: found when a base or an adapter is put to use, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lowregret.errors import ModelError

FETCH = "It is a broken download, or was saved after its training had diverged: fetch it again, or give another base."


def refuse_broken(source: str, weights: Mapping[str, Tensor], whose: str = FETCH) -> None:
    """ModelError that names the first of the weights with a number that is not finite, and counts the others.

    A sum over each weight tells: one pass through the memory, and one wait for the device. A loss would not: many
    weights are used by few rows (an embedding's, an expert's). `whose` says in a sentence what to do.
    """
    if not weights:
        return
    sums = [weight.detach().sum(dtype=torch.float32) for weight in weights.values()]
    suspect = ~torch.isfinite(torch.stack(sums)).cpu()
    named = [name for name, found in zip(weights, suspect.tolist(), strict=True) if found]
    broken = [name for name in named if not bool(torch.isfinite(weights[name]).all())]  # a sum may be too large
    if not broken:
        return
    first = weights[broken[0]]
    count, total = int((~torch.isfinite(first)).sum()), first.numel()
    more = f", and {len(broken) - 1:,} more of its weights do" if len(broken) > 1 else ""
    raise ModelError(
        f"{source}: {broken[0].removesuffix('.weight')} holds numbers that are not finite ({count:,} of its "
        f"{total:,}){more}. {whose}"
    )


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """What a model's files hold, tied weights once: its parameters, and the numbers that it keeps beside them."""
    kept = model.state_dict(keep_vars=True).keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    return {name: tensor for name, tensor in [*model.named_parameters(), *buffers] if tensor.is_floating_point()}
