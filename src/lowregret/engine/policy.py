"""One set of trainable weights on a base: a LoRA adapter, or the base's own weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import nn
from transformers import PreTrainedModel

from lowregret.engine.optimizer import PolicyOptimizer
from lowregret.lora.init import uniform
from lowregret.lora.linear import LoRALinear, LoRAWeights, Routing
from lowregret.models.targets import Matrix
from lowregret.spec import FullFT, LoRA


class Policy(ABC):
    """Named trainable weights and their optimizer."""

    def __init__(self, name: str, weights: dict[str, nn.Parameter]) -> None:
        self.name = name
        self.weights = weights
        self.optimizer = PolicyOptimizer(weights)

    @property
    def trainable_parameters(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    @abstractmethod
    def detach(self) -> None:
        """Take the policy off the base."""


@final
class LoRAPolicy(Policy):
    """A LoRA on a frozen base."""

    def __init__(
        self, name: str, method: LoRA, matrices: Sequence[Matrix], seed: int, model: PreTrainedModel, routing: Routing
    ) -> None:
        self.method = method
        self.matrices = matrices
        self._model = model
        generator = torch.Generator().manual_seed(seed)
        self.adapters: dict[str, LoRAWeights] = {}
        weights: dict[str, nn.Parameter] = {}
        for matrix in self.matrices:
            linear = _adapted(model, matrix, routing)
            adapter = uniform(matrix, method.rank, method.alpha, generator).to(linear.weight.device)
            linear.adapters[name] = adapter
            self.adapters[matrix.name] = adapter
            weights[f"{matrix.name}.lora_A"] = adapter.a
            weights[f"{matrix.name}.lora_B"] = adapter.b
        super().__init__(name, weights)

    def detach(self) -> None:
        """A matrix that carries no adapter any more is put back as it was."""
        for matrix in self.matrices:
            linear = self._model.get_submodule(matrix.name)
            assert isinstance(linear, LoRALinear)
            del linear.adapters[self.name]
            if not linear.adapters:
                _replace(self._model, matrix.name, linear.base)


@final
class FullPolicy(Policy):
    """The base's own weights, all of them; it must be the only policy of its engine."""

    def __init__(self, name: str, method: FullFT, model: PreTrainedModel) -> None:
        self.method = method
        weights: dict[str, nn.Parameter] = {}
        for key, parameter in model.named_parameters():
            if parameter.dtype is not torch.float32:
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            weights[key] = parameter
        self._model = model
        super().__init__(name, weights)

    def detach(self) -> None:
        self._model.requires_grad_(False)


def _adapted(model: PreTrainedModel, matrix: Matrix, routing: Routing) -> LoRALinear:
    """The LoRALinear at this place, put there when it is still the plain matrix."""
    module = model.get_submodule(matrix.name)
    if isinstance(module, LoRALinear):
        return module
    linear = LoRALinear(module, routing, unembedding=matrix.group == "unembedding")
    _replace(model, matrix.name, linear)
    return linear


def _replace(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
