"""AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2), torch's fused one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from lowregret.engine.optim.optimizer import Names, PolicyOptimizer, StepParams
from lowregret.spec.optimizer import AdamW

_DEFAULT = AdamW()


@dataclass(frozen=True)
class AdamParams(StepParams):
    """One step's hyper-parameters; decay is decoupled: w ← w − lr · weight_decay · w."""

    beta1: float = _DEFAULT.beta1
    beta2: float = _DEFAULT.beta2
    eps: float = _DEFAULT.eps
    weight_decay: float = _DEFAULT.weight_decay


@final
class AdamWOptimizer(PolicyOptimizer[AdamParams]):
    """torch's AdamW over the parameters of one policy."""

    spec = AdamW
    params = AdamParams
    prefix = "adam"

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, Names]],
        *,
        gradients_stay: bool,
        rates: Sequence[float] | None = None,
    ) -> None:
        super().__init__(parameters, gradients_stay=gradients_stay, rates=rates)
        self._adam = torch.optim.AdamW([{"params": own} for own in self._by_rate.values()], fused=True)
        self._kept = self._adam.state

    def _update(self, params: AdamParams) -> None:
        for group, rate in zip(self._adam.param_groups, self._by_rate, strict=True):
            group.update(
                lr=params.learning_rate * rate,
                betas=(params.beta1, params.beta2),
                eps=params.eps,
                weight_decay=params.weight_decay,
            )
        self._adam.step()
