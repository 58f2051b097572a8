"""What an engine does on a GPU, on a CPU: the same code, with plain torch in the place of the one kernel that has none.

torch's attention for rows end to end is an operator with a kernel for CUDA alone. Here it gets one for the CPU, by its
definition: of each row, queries and keys aligned at their ends, a window of (left, right), heads that share keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

from lowregret.lora.kernels import Kernels

GPU = Kernels(varlen=True, grouped=True, counted=True)
"""All that a GPU of the newest kind does another way than a CPU."""


def _rows(
    q: Tensor, k: Tensor, v: Tensor, q_ends: Tensor, k_ends: Tensor, causal: bool, scale: float, window: Any
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(q [heads, tokens, d], k and v with a head for each, scores [heads, tokens, keys]) of each row, wide."""
    times = q.shape[1] // k.shape[1]
    left, right = (math.inf if side < 0 else side for side in window or (-1, -1))
    right = 0 if causal else right
    q_cuts, k_cuts = (ends.diff().tolist() for ends in (q_ends, k_ends))
    wide = torch.promote_types(q.dtype, torch.float32)
    for row in zip(q.split(q_cuts), k.split(k_cuts), v.split(k_cuts), strict=True):
        own, keys, values = (states.to(wide).transpose(0, 1) for states in row)
        keys, values = (states.repeat_interleave(times, 0) for states in (keys, values))
        place = torch.arange(own.shape[1])[:, None] + keys.shape[1] - own.shape[1] - torch.arange(keys.shape[1])
        scores = own @ keys.transpose(1, 2) * scale
        yield own, keys, values, scores.masked_fill((place > left) | (-place > right), -math.inf)


@varlen._varlen_attn.register_kernel("cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
    assert enable_gqa or query.shape[1] == key.shape[1]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outputs, sums = [], []
    for _, _, values, scores in _rows(query, key, value, cu_seq_q, cu_seq_k, is_causal, scale, window_size):
        outputs.append((scores.softmax(-1) @ values).transpose(0, 1))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outputs).to(query.dtype), torch.cat(sums, 1), torch.zeros(2, dtype=torch.uint64)


@varlen._varlen_attn_backward.register_kernel("cpu")
def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    found: list[list[Tensor]] = [[], [], []]
    grads = grad_out.split(cu_seq_q.diff().tolist())
    rows = _rows(query, key, value, cu_seq_q, cu_seq_k, is_causal, scale, window_size)
    for grad, (own, keys, values, scores) in zip(grads, rows, strict=True):
        weights, of_output = scores.softmax(-1), grad.to(scores.dtype).transpose(0, 1)
        of_weights = of_output @ values.transpose(1, 2)
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
        each = (of_scores @ keys, of_scores.transpose(1, 2) @ own, weights.transpose(1, 2) @ of_output)
        for kept, one, heads in zip(found, each, (query, key, value), strict=True):
            shared = one.unflatten(0, (heads.shape[1], -1)).sum(1)
            kept.append(shared.transpose(0, 1).to(heads.dtype))
    return torch.cat(found[0]), torch.cat(found[1]), torch.cat(found[2])
