"""Muon (Jordan et al., as in Liu et al., arXiv 2502.16982) for the matrices of layers, torch's; AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, final

import torch
from torch import Tensor, nn

from lowregret.engine.optim.adamw import AdamParams, TorchAdamW
from lowregret.engine.optim.optimizer import PolicyOptimizer
from lowregret.spec.optimizer import Muon

_MOMENTUM = "momentum_buffer"


@final
class MuonOptimizer(PolicyOptimizer[AdamParams]):
    """Steps a matrix by its orthogonalised momentum, at a rate at which that is as large as a step of AdamW.

    Of three dimensions, such as fused experts, each matrix is stepped on its own.
    """

    spec = Muon
    params = AdamParams
    prefix = "muon"

    def _start(self) -> MutableMapping[Any, Any]:
        apart = {own for own, names in self._parameters if own.ndim < 2 or self._outside & names(own.detach()).keys()}
        self._others = TorchAdamW({rate: [p for p in some if p in apart] for rate, some in self._by_rate.items()})
        self._matrices = [(p, rate) for rate, some in self._by_rate.items() for p in some if p not in apart]
        return self._others.state

    def _update(self, params: AdamParams) -> None:
        self._others.step(params)
        for parameter, rate in self._matrices:
            if parameter.grad is None:
                continue
            kept = self._kept[parameter]
            if _MOMENTUM not in kept:
                kept[_MOMENTUM] = torch.zeros_like(parameter.detach(), memory_format=torch.contiguous_format)
            for matrix, gradient, momentum in _each(parameter.detach(), parameter.grad, kept[_MOMENTUM]):
                _step(matrix, gradient, momentum, params, rate)


def _each(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The matrices in tensors of one shape, as views."""
    if tensors[0].ndim == 2:
        yield tensors
        return
    for parts in zip(*(tensor.unbind() for tensor in tensors), strict=True):
        yield from _each(*parts)


def _step(matrix: Tensor, gradient: Tensor, momentum: Tensor, params: AdamParams, rate: float) -> None:
    own = nn.Parameter(matrix)
    own.grad = gradient
    muon = torch.optim.Muon(
        [own],
        lr=params.learning_rate * rate,
        weight_decay=params.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    muon.state[own] = {_MOMENTUM: momentum}
    muon.step()
