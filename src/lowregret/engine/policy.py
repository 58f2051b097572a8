"""One set of trainable weights on a base: a LoRA adapter, or the base's own weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import nn
from transformers import PreTrainedModel

from lowregret.engine.optimizer import PolicyOptimizer, by_name
from lowregret.lora.bank import Bank
from lowregret.lora.dropout import Dropout
from lowregret.lora.init import uniform
from lowregret.lora.linear import LoRALinear, LoRAWeights, Routing
from lowregret.models.targets import Matrix
from lowregret.spec import FullFT, LoRA


class Policy(ABC):
    """Named trainable weights and their optimizer."""

    weights: dict[str, nn.Parameter]
    optimizer: PolicyOptimizer

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0
        """Optimizer steps so far."""

    @property
    def trainable_parameters(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    @abstractmethod
    def before_backward(self) -> None:
        """Called before every pass that will add to this policy's gradients."""

    @abstractmethod
    def detach(self) -> None:
        """Take the policy off the base."""


@final
class LoRAPolicy(Policy):
    """A LoRA on a frozen base: one row of a bank, with its matrices as views of it."""

    def __init__(
        self,
        name: str,
        method: LoRA,
        matrices: Sequence[Matrix],
        seed: int,
        model: PreTrainedModel,
        bank: Bank,
        routing: Routing,
    ) -> None:
        super().__init__(name)
        self.method = method
        self.matrices = matrices
        self.seed = seed
        self.bank = bank
        self._model = model
        self._routing = routing
        generator = torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        linears = [_adapted(model, matrix, routing) for matrix in matrices]
        bank.add(name, {m.name: uniform(m, method.rank, generator) for m in matrices}, device)
        for linear in linears:
            if bank not in linear.banks:
                linear.banks.append(bank)
        # Parameters once and for all: what they view changes with the bank, what an optimizer knows them by does not.
        self._flat = nn.Parameter(bank.weights[-1])
        self.weights = {key: nn.Parameter(view) for key, view in bank.views(self._flat.detach(), method.rank).items()}
        self.adapters = {
            m.name: LoRAWeights(self.weights[f"{m.name}.lora_A"], self.weights[f"{m.name}.lora_B"], self.scale)
            for m in matrices
        }
        self.optimizer = PolicyOptimizer([(self._flat, self._named)], gradients_stay=True)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.method.alpha / self.method.rank

    @property
    def slot(self) -> int:
        """Its row in the bank."""
        return self.bank.members.index(self.name)

    def dropout(self, rows: Sequence[tuple[int, int]]) -> Dropout | None:
        """That of the pass to come, for rows of these (numbers, tokens); or None."""
        return Dropout(self.method.dropout, self.seed, self.steps, rows) if self.method.dropout else None

    def before_backward(self) -> None:
        if self.bank.need_gradients() or self._flat.grad is None:
            self.look()

    def look(self) -> None:
        """View the bank as it is now: after it has got or lost a member, or its gradients."""
        gradients = self.bank.gradients
        pairs = [(self._flat, self.bank.weights[self.slot])]
        pairs += [(self.weights[key], view) for key, view in self._named(pairs[0][1]).items()]
        for parameter, view in pairs:
            parameter.data = view
        if gradients is None:
            return
        own = self._flat.grad = gradients[self.slot]
        for key, view in self._named(own).items():
            self.weights[key].grad = view

    def detach(self) -> None:
        """A matrix that carries no adapter any more is put back as it was."""
        self.bank.remove(self.name)
        if self.bank.members:
            return
        for matrix in self.matrices:
            linear = self._model.get_submodule(matrix.name)
            assert isinstance(linear, LoRALinear)
            linear.banks.remove(self.bank)
            if not linear.banks:
                _replace(self._model, matrix.name, linear.base)

    def _named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.bank.views(flat, self.method.rank)


@final
class FullPolicy(Policy):
    """The base's own weights, all of them; it must be the only policy of its engine."""

    def __init__(self, name: str, method: FullFT, model: PreTrainedModel) -> None:
        super().__init__(name)
        self.method = method
        self.weights = {}
        for key, parameter in model.named_parameters():
            if parameter.dtype is not torch.float32:
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
            self.weights[key] = parameter
        self._model = model
        self.optimizer = PolicyOptimizer(by_name(self.weights), gradients_stay=False)

    def before_backward(self) -> None:
        """Nothing to do: autograd makes the gradients."""

    def detach(self) -> None:
        self._model.requires_grad_(False)


def _adapted(model: PreTrainedModel, matrix: Matrix, routing: Routing) -> LoRALinear:
    """The LoRALinear at this place, put there when it is still the plain matrix."""
    module = model.get_submodule(matrix.name)
    if isinstance(module, LoRALinear):
        return module
    linear = LoRALinear(matrix.name, module, routing, unembedding=matrix.group == "unembedding")
    _replace(model, matrix.name, linear)
    return linear


def _replace(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
