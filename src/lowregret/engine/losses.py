"""Losses as pure functions of a typed batch: sums over per-token weights that arrive ready."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities [positions], weights [positions]) → a scalar to be minimised."""


def token_logprobs(
    logits: Float[Tensor, "positions vocabulary"], targets: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """log p(target) of each position, in float32, nats."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def cross_entropy(logprobs: Float[Tensor, " positions"], weights: Float[Tensor, " positions"]) -> Float[Tensor, ""]:
    """−Σ weight · log p(target): the held-out metric of the study when the weights are 1 / tokens."""
    return -(weights * logprobs).sum()
