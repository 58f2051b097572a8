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
from lowregret.errors import SpecError
from lowregret.models.fill import fill_weights, is_bare
from lowregret.models.finite import refuse_broken, stored_weights
from lowregret.models.four_bit import is_four_bit, move, pack
from lowregret.models.load import Base
from lowregret.spec import FullFT, LoRA


def place(
    base: Base, device: torch.device, dtype: torch.dtype, ranks: Ranks, *, in_parts: bool, trains: bool
) -> tuple[BaseCuts, ExpertExchange | None]:
    """Cast the base, cut its matrices and experts, and all of it if it is to lie `in_parts`, read what is left here if
    it has no weights yet, and move it.

    Frozen weights are of the types that `cast_base` says. With `trains` they hold the same numbers in float32.
    ModelError for weights that are no numbers. Returns what this rank holds of matrices and experts: see `cut_base`. A
    base that has weights is cut where it was loaded, before it is moved. One in four bits is whole on each rank:
    SpecError else.
    """
    model = base.model
    if base.quantisation != "none":
        return _place_packed(base, device, dtype, ranks, in_parts=in_parts)
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
    refuse_broken(base.source.asked, stored_weights(model), spread=cuts.base() if cuts.any or in_parts else None)
    connect_base(model, cuts, exchange, dtype)
    return cuts, exchange


def require_base(base: Base, method: FullFT | LoRA) -> None:
    """SpecError when a method is for a base of another quantisation."""
    if method.quantisation != base.quantisation:
        there = "as it is" if base.quantisation == "none" else f"in {base.quantisation}"
        wanted = "as it is" if method.quantisation == "none" else f"in {method.quantisation}"
        raise SpecError(
            f"{method.name}: is for a base {wanted}, and this engine's is {there}. Make one with "
            f"replace(base, quantisation={method.quantisation!r})."
        )


def _place_packed(
    base: Base, device: torch.device, dtype: torch.dtype, ranks: Ranks, *, in_parts: bool
) -> tuple[BaseCuts, ExpertExchange | None]:
    """A frozen base whose layers are in four bits, packed from the numbers that a base of this type would have."""
    if in_parts or max(ranks.tensor.count, ranks.expert.count) > 1:
        raise SpecError(
            f"a base in {base.quantisation} lies whole on each device, and is not cut. Use --parallel "
            f"replicate={ranks.count}, or leave {base.quantisation} out of the method."
        )
    model = base.model
    model.requires_grad_(False)
    cast_base(model, dtype)
    refuse_broken(base.source.asked, stored_weights(model))
    experts_under_autocast(model)
    if is_four_bit(model):
        move(model, device)
    else:
        pack(model, device)
    model.to(device)  # type: ignore[arg-type]
    return BaseCuts(ranks), None
