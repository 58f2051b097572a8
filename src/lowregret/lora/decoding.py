"""The products of a step of decoding: few rows, each with one token, for which a processor has a faster way round."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowregret.environment import cpu_vendor


def base_product(linear: nn.Module, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
    """A linear map of what belongs to no policy: by its module, unless nothing but its product is asked for."""
    hooked = linear._forward_pre_hooks or linear._forward_hooks
    if type(linear) is not nn.Linear or hooked or not transposed(x):
        y: Tensor = linear(x)
        return y
    flat = x.reshape(-1, x.shape[-1])
    y = transposed_product(flat, as_type(linear.weight, x.dtype).T, linear.bias)
    return y.view(*x.shape[:-1], -1)


def transposed(x: Float[Tensor, "... d_in"]) -> bool:
    """Whether to take the product of these rows by `transposed_product`.

    A step of decoding is [rows, 1, d_in]. Other passes compute as the bare base does, to the bit.
    """
    if x.device.type != "cpu" or x.shape[-2:-1] != (1,) or torch.is_grad_enabled():
        return False
    return x.numel() // x.shape[-1] <= few_rows()


def few_rows() -> int:
    """Rows up to which the transposed product is the faster one.

    On AMD's processors it is, on Intel's never (times: docs/findings/2026-11-24-rl-decoding-and-learning-steps.md,
    docs/findings/2026-11-30-serving.md), of others nothing is known.
    """
    if cpu_vendor() != "AuthenticAMD":
        return 0
    return 4 if torch.get_num_threads() == 1 else 32


def transposed_product(
    x: Float[Tensor, "tokens d_in"], weight: Float[Tensor, "d_in d_out"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "tokens d_out"]:
    """x · weight + bias, as (weightᵀ xᵀ)ᵀ."""
    y = torch.mm(weight.T, x.T).T.contiguous()
    return y if bias is None else y.add_(as_type(bias, x.dtype))


def as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, without the microseconds that a call costs when there is nothing to do."""
    return x if x.dtype is dtype else x.to(dtype)
