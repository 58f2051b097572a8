"""Weights that are no numbers: found when a base or an adapter is put to use, before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

import torch
from torch import Tensor, nn

from lowregret.errors import ModelError
from lowregret.models.sharded import here

FETCH = "It is a broken download, or was saved after its training had diverged: fetch it again, or give another base."


class Spread(Protocol):
    """How weights lie over processes."""

    def numbers(self, name: str, tensor: Tensor) -> int:
        """Those of the whole of a weight, of what of it is here."""
        ...

    def add_all(self, tensor: Tensor) -> None:
        """Put in a tensor's place its sum over all processes."""
        ...


@final
class _Here:
    """All are on this process."""

    def numbers(self, name: str, tensor: Tensor) -> int:
        return tensor.numel()

    def add_all(self, tensor: Tensor) -> None:
        pass


def refuse_broken(source: str, weights: Mapping[str, Tensor], whose: str = FETCH, spread: Spread | None = None) -> None:
    """ModelError that names the first of the weights with a number that is not finite, and counts the others.

    A sum over each weight tells: one pass through the memory, and one wait for the device. A loss would not: many
    weights are used by few rows (an embedding's, an expert's). `whose` says in a sentence what to do.
    `spread`: over which processes they lie; each of these must ask, and all are told the same.
    """
    if not weights:
        return
    parts = [here(weight) for weight in weights.values()]
    suspect = ~torch.isfinite(torch.stack([own.detach().sum(dtype=torch.float32) for own in parts])).cpu()
    pairs = zip(parts, suspect.tolist(), strict=True)
    counts = [int((~torch.isfinite(own)).sum()) if found else 0 for own, found in pairs]  # a sum may be too large
    spread = spread or _Here()
    everywhere = torch.tensor([counts, [own.numel() for own in parts]], device=parts[0].device)
    spread.add_all(everywhere)
    totals = [spread.numbers(name, weight) for name, weight in weights.items()]
    # What several hold is counted by each of them.
    found = [count * total // max(held, 1) for total, count, held in zip(totals, *everywhere.tolist(), strict=True)]
    broken = [(name, count, total) for name, count, total in zip(weights, found, totals, strict=True) if count]
    if not broken:
        return
    name, count, total = broken[0]
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
