"""AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2), torch's fused one."""

from __future__ import annotations

from abc import ABC
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from lowregret.engine.optim.optimizer import PolicyOptimizer, StepParams
from lowregret.spec.optimizer import AdamW, BF16Nearest

_DEFAULT = AdamW()


@dataclass(frozen=True)
class AdamParams(StepParams):
    """One step's hyper-parameters; decay is decoupled: w ← w − lr · weight_decay · w."""

    beta1: float = _DEFAULT.beta1
    beta2: float = _DEFAULT.beta2
    eps: float = _DEFAULT.eps
    weight_decay: float = _DEFAULT.weight_decay


class TorchAdamW:
    """torch's AdamW over some of a policy's parameters, grouped by the rates that multiply a step's."""

    def __init__(self, by_rate: dict[float, list[nn.Parameter]]) -> None:
        self._rates = list(by_rate)
        self._adam = torch.optim.AdamW([{"params": own} for own in by_rate.values()], fused=True)
        self.state = self._adam.state
        """{parameter: what is kept of it}."""

    def step(self, params: AdamParams) -> None:
        """Move those that have a gradient."""
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group.update(
                lr=params.learning_rate * rate,
                betas=(params.beta1, params.beta2),
                eps=params.eps,
                weight_decay=params.weight_decay,
            )
        self._adam.step()


class _OfTorch(PolicyOptimizer[AdamParams], ABC):
    """torch's AdamW over the parameters of one policy, in their own types."""

    params = AdamParams

    def _start(self) -> MutableMapping[Any, Any]:
        self._adam = TorchAdamW(self._by_rate)
        return self._adam.state

    def _update(self, params: AdamParams) -> None:
        self._adam.step(params)


@final
class AdamWOptimizer(_OfTorch):
    """Over float32."""

    spec = AdamW
    prefix = "adam"


@final
class NearestOptimizer(_OfTorch):
    """Over bfloat16 matrices: what is nearest is all that is kept of a step."""

    spec = BF16Nearest
    prefix = "bf16-nearest"
