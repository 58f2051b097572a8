"""Exchanges within a pass that gradients go through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.mesh import Axis


def enter(x: Tensor, axis: Axis) -> Tensor:
    """x, the same on every rank, where each goes on with its own part of a matrix: its gradient is all parts' sum."""
    entered: Tensor = _Enter.apply(x, axis)  # type: ignore[no-untyped-call]
    return entered


def leave(x: Tensor, axis: Axis) -> Tensor:
    """The sum of everybody's x, with which all go on alike: its gradient is each one's own."""
    left: Tensor = _Leave.apply(x, axis)  # type: ignore[no-untyped-call]
    return left


def join(x: Tensor, cut: Cut) -> Tensor:
    """The whole of which each has a part along the last dimension, with which all go on alike."""
    whole: Tensor = _Join.apply(x, cut)  # type: ignore[no-untyped-call]
    return whole


def _sum(x: Tensor, axis: Axis) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    axis.add(total)
    return total


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return _sum(d, ctx.axis), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        return _sum(x, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return d, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: Cut) -> Tensor:
        ctx.cut = cut
        return cut.joined(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return ctx.cut.own(d).contiguous(), None
