"""Attention over rows that lie end to end by torch's own kernel for them (`torch.nn.attention.varlen`), on a GPU."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int32
from torch import Tensor

WIDEST, STEP = 256, 8
"""The kernel (FlashAttention 2) takes heads of up to 256 numbers, in multiples of 8."""


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernel takes heads [tokens, heads, d] of this width; those of others are taken by groups."""
    width = query.shape[-1]
    return width == key.shape[-1] == value.shape[-1] and width <= WIDEST and width % STEP == 0


def varlen(
    states: tuple[Float[Tensor, "tokens heads d"], Float[Tensor, "keys kv_heads d"], Float[Tensor, "keys kv_heads d"]],
    ends: tuple[Int32[Tensor, " one_more"], Int32[Tensor, " one_more"]],
    longest: tuple[int, int],
    *,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "tokens heads d"]:
    """Causal attention of each row's queries over its keys, aligned at their ends; heads may share keys.

    `states` are queries, keys and values. Rows are told apart by where their queries and keys begin and end (`ends`);
    `longest` is the largest number of each in a row. With `window`, a query sees no more than the last so many keys.
    Under autocast the kernel is not cast for: it gets the type of products here, as `scaled_dot_product_attention`
    would.
    """
    from torch.nn.attention.varlen import varlen_attn  # torch 2.9 has none (`lora.kernels`)

    query, key, value = states
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    found = varlen_attn(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        *ends,
        *longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)  # with a log-sum beside it only where that is asked for
    return found
