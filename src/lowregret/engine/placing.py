"""A base put where an engine computes: its types, its parts, its weights."""

from __future__ import annotations

import torch

from lowregret.engine.device import cast_base, round_base
from lowregret.engine.forward.checkpointing import decoder_layers
from lowregret.engine.forward.mixture import experts_under_autocast
from lowregret.engine.parallel.base import connect_base, cut_base
from lowregret.engine.parallel.expert import ExpertExchange
from lowregret.engine.parallel.fsdp import shard
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.parallel.parts import BaseCuts
from lowregret.engine.parallel.reading import as_stored
from lowregret.models.fill import fill_weights, is_bare
from lowregret.models.finite import refuse_broken, stored_weights
from lowregret.models.load import Base


def place(
    base: Base, device: torch.device, dtype: torch.dtype, ranks: Ranks, *, in_parts: bool, trains: bool
) -> tuple[BaseCuts, ExpertExchange | None]:
    """Cast the base, cut its matrices and experts, and all of it if it is to lie `in_parts`, read what is left here if
    it has no weights yet, and move it.

    Frozen weights are of the types that `cast_base` says. With `trains` they hold the same numbers in float32.
    ModelError for weights that are no numbers. Returns what this rank holds of matrices and experts: see `cut_base`. A
    base that has weights is cut where it was loaded, before it is moved.
    """
    model = base.model
    model.requires_grad_(False)
    cast_base(model, torch.float32 if trains else dtype)
    if dtype is not torch.float32:
        experts_under_autocast(model)
    cuts, exchange = cut_base(model, ranks)
    if in_parts:
        shard(model, decoder_layers(model), ranks)
    if is_bare(model):
        with as_stored(model, cuts):
            fill_weights(model, base.source, device)
    model.to(device)  # type: ignore[arg-type]
    if trains:
        round_base(model, dtype)
    refuse_broken(base.source.asked, stored_weights(model), spread=cuts.base())
    connect_base(model, cuts, exchange, dtype)
    return cuts, exchange
