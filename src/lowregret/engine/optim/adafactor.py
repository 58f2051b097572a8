"""Adafactor (Shazeer & Stern, arXiv 1804.04235, algorithm 5 without momentum), torch's."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from lowregret.engine.optim.optimizer import PolicyOptimizer, StepParams
from lowregret.spec.optimizer import Adafactor


@dataclass(frozen=True)
class AdafactorParams(StepParams):
    """One step's hyper-parameters. The step of a weight w is as large as min(lr, 1/√t) · max(10⁻³, rms(w)); decay is
    decoupled: w ← w − lr · weight_decay · w."""

    weight_decay: float = Adafactor().weight_decay


@final
class AdafactorOptimizer(PolicyOptimizer[AdafactorParams]):
    """torch's Adafactor over the parameters of one policy."""

    spec = Adafactor
    params = AdafactorParams
    prefix = "adafactor"

    def _start(self) -> MutableMapping[Any, Any]:
        self._adafactor = torch.optim.Adafactor([{"params": own} for own in self._by_rate.values()], foreach=False)
        return self._adafactor.state

    def _counted_on_host(self, parameter: nn.Parameter) -> bool:
        return True

    def _update(self, params: AdafactorParams) -> None:
        for group, rate in zip(self._adafactor.param_groups, self._by_rate, strict=True):
            group.update(lr=params.learning_rate * rate, weight_decay=params.weight_decay)
        self._adafactor.step()
