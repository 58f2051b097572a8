"""AdamW's step on moments of 8 bits, block by block, by bitsandbytes (Dettmers et al., arXiv 2110.02861)."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from lowregret.engine.optim.adamw import AdamParams
from lowregret.errors import SpecError


def require_library() -> None:
    """SpecError where bitsandbytes is not there, or does not load."""
    _library()


@cache
def _library() -> Any:
    loading = logging.getLogger("bitsandbytes")
    level = loading.level
    loading.setLevel(logging.ERROR)  # it tells of kernels for inference that are not there
    try:
        import bitsandbytes.functional as found
    except (ImportError, OSError, RuntimeError) as error:
        raise SpecError(
            f"moments of 8 bits need bitsandbytes ({str(error).splitlines()[0]}). Run: pip install 'lowregret[lean]'."
        ) from error
    finally:
        loading.setLevel(level)
    return found


@cache
def _codes(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values that a byte may mean, signed and not, over the largest of its block."""
    found = _library()
    both = found.create_dynamic_map(signed=True), found.create_dynamic_map(signed=False)
    return both[0].to(device), both[1].to(device)


def adamw_in_blocks(
    weight: Float32[Tensor, " count"],
    gradient: Float32[Tensor, " count"],
    first: tuple[UInt8[Tensor, " count"], Float32[Tensor, " blocks"]],
    second: tuple[UInt8[Tensor, " count"], Float32[Tensor, " blocks"]],
    step: int,
    learning_rate: float,
    params: AdamParams,
) -> None:
    """One step in place; moments are (bytes, scales of their blocks), `step` counts from 1."""
    signed, unsigned = _codes(weight.device)
    _library().optimizer_update_8bit_blockwise(
        "adam",
        gradient,
        weight,
        first[0],
        second[0],
        params.beta1,
        params.beta2,
        0.0,
        0.0,
        params.eps,
        step,
        learning_rate,
        signed,
        unsigned,
        first[1],
        second[1],
        weight_decay=params.weight_decay,
    )
