"""One set of trainable weights on a base: a LoRA adapter, or the base's own weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import final

import torch
from torch import nn
from transformers import PreTrainedModel

from lowregret.engine.optimizer import Names, PolicyOptimizer, by_name
from lowregret.lora.bank import Bank, Block
from lowregret.lora.dropout import Dropout
from lowregret.lora.init import initial
from lowregret.lora.linear import LoRALinear, Routing
from lowregret.lora.weights import LoRAWeights, row_norms
from lowregret.models.targets import Matrix
from lowregret.spec import FullFT, LoRA


class Policy(ABC):
    """Named trainable weights and their optimizer."""

    weights: dict[str, nn.Parameter]
    initial: dict[str, nn.Parameter]
    """The start of those weights whose first product is taken off, by the same names; frozen."""
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
        self._pieces: list[tuple[Block, nn.Parameter]] = []
        """What the optimizer steps when A and B have rates of their own: neighbouring numbers of `_flat`."""
        generator = torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        linears = {matrix.name: _adapted(model, matrix, routing) for matrix in matrices}
        bank.add(name, {m.name: initial(method, m, linears[m.name].matrix, generator) for m in matrices}, device)
        for linear in linears.values():
            if bank not in linear.banks:
                linear.banks.append(bank)
        # Parameters once and for all: what they view changes with the bank, what an optimizer knows them by does not.
        self._flat = nn.Parameter(bank.weights[-1])
        self.weights = {key: nn.Parameter(view) for key, view in bank.views(self._flat.detach(), method.rank).items()}
        self.initial = {key: nn.Parameter(view, requires_grad=False) for key, view in self._initial_views().items()}
        self.adapters = {m.name: self._adapter(m.name) for m in matrices}
        if method.dora:
            for key, adapter in self.adapters.items():
                assert adapter.magnitude is not None
                adapter.magnitude.data.copy_(row_norms(linears[key].matrix, *adapter.factors(), adapter.scale))
        self.optimizer = self._optimizer()

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return self.method.scale

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
        gradients, row = self.bank.gradients, self.bank.weights[self.slot]
        pairs = [(self._flat, row), *((piece, row[block.place]) for block, piece in self._pieces)]
        pairs += [(self.weights[key], view) for key, view in self._named(row).items()]
        pairs += [(self.initial[key], view) for key, view in self._initial_views().items()]
        for parameter, view in pairs:
            parameter.data = view
        if gradients is None:
            return
        own = self._flat.grad = gradients[self.slot]
        for block, piece in self._pieces:
            piece.grad = own[block.place]
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

    def _optimizer(self) -> PolicyOptimizer:
        """One vector for all that learns at one rate; else a vector for each block, with its own."""
        method = self.method
        if method.a_rate == method.b_rate == 1:
            return PolicyOptimizer([(self._flat, self._named)], gradients_stay=True)
        flat = self._flat.detach()
        self._pieces = [(block, nn.Parameter(flat[block.place])) for block in self.bank.blocks]
        named: list[tuple[nn.Parameter, Names]] = [
            (piece, partial(_view, block, method.rank)) for block, piece in self._pieces
        ]
        rates = [method.a_rate if block.name.endswith(".lora_A") else method.b_rate for block, _ in self._pieces]
        return PolicyOptimizer(named, gradients_stay=True, rates=rates)

    def _adapter(self, matrix: str) -> LoRAWeights:
        a, b = f"{matrix}.lora_A", f"{matrix}.lora_B"
        start = (self.initial[a], self.initial[b]) if self.initial else None
        return LoRAWeights(
            self.weights[a], self.weights[b], self.scale, start, self.weights.get(f"{matrix}.lora_magnitude")
        )

    def _initial_views(self) -> dict[str, torch.Tensor]:
        if self.bank.initial is None:
            return {}
        views = self._named(self.bank.initial[self.slot])
        return {key: view for key, view in views.items() if not key.endswith(".lora_magnitude")}

    def _named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.bank.views(flat, self.method.rank)


@final
class FullPolicy(Policy):
    """The base's own weights, all of them; it must be the only policy of its engine."""

    def __init__(self, name: str, method: FullFT, model: PreTrainedModel) -> None:
        super().__init__(name)
        self.method = method
        self.weights, self.initial = {}, {}
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


def _view(block: Block, rank: int, numbers: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """One weight by its name."""
    return {block.name: block.view(numbers, rank)}


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
