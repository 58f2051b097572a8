"""One set of trainable weights on a base: a LoRA adapter, or the base's own weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Int64
from torch import nn
from transformers import PreTrainedModel

from lowregret.engine.liveness import Liveness
from lowregret.engine.optim.in_backward import InBackward
from lowregret.engine.optim.optimizer import Names, PolicyOptimizer, StepParams, by_name
from lowregret.engine.optim.registry import optimizer_of
from lowregret.engine.parallel.parts import BaseCuts, WeightParts
from lowregret.engine.parallel.slices import StateSlices
from lowregret.errors import SpecError, TargetError
from lowregret.lora.bank import AdapterBank, WeightSlice, rank_on
from lowregret.lora.dropout import Dropout
from lowregret.lora.forms import Carrier, carrier_name, form_of
from lowregret.lora.moe.experts import LoRAExperts
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.weights import LoRAWeights, row_norms
from lowregret.models.sharded import whole
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA
from lowregret.spec.conventions import DEFAULT_CONVENTION
from lowregret.spec.lean import require_able
from lowregret.spec.optimizer import DEFAULT_OPTIMIZER

WHOLE = BaseCuts()


class Policy(ABC):
    """Named trainable weights and their optimizer."""

    weights: dict[str, nn.Parameter]
    initial: dict[str, nn.Parameter]
    """The start of those weights whose first product is taken off, by the same names; frozen."""
    optimizer: PolicyOptimizer[Any] | InBackward
    parts = WeightParts()
    """Which of the weights are a rank's own part of a larger one."""
    slices: StateSlices | None = None
    """How the optimizer's state lies over the ranks that hold the same weights; None where each has all of it."""

    def __init__(self, name: str, optimizer: str) -> None:
        self.name = name
        self._optimizer_type = optimizer_of(optimizer)
        self.steps = 0
        """Optimizer steps so far."""
        self.liveness = Liveness(self)

    @property
    def trainable_parameters(self) -> int:
        return sum(self.parts.numbers(name, weight) for name, weight in self.weights.items())

    @property
    def trained_bytes(self) -> int:
        """Of what trains, in the types in which it is shipped."""
        sizes = {name: self.parts.numbers(name, weight) for name, weight in self.weights.items()}
        return sum(numbers * self.weights[name].element_size() for name, numbers in sizes.items())

    def take_step(self, params: StepParams) -> torch.Tensor:
        """One optimizer step; returns the gradients' norm before clipping."""
        norm = self.optimizer.step(params, self.gradient_norm())
        self.steps += 1
        return norm

    @abstractmethod
    def before_backward(self) -> None:
        """Called before every pass that will add to this policy's gradients."""

    @abstractmethod
    def gather_gradients(self) -> None:
        """Called before a step, once or more: add up what the ranks' passes have left, where the passes have not."""

    @abstractmethod
    def watched(self, step: int) -> list[str]:
        """The weights that must have a gradient in a step, counted from 1, and move with it: see `Liveness`."""

    @abstractmethod
    def gradient_norm(self) -> torch.Tensor | None:
        """That of all gradients once they are gathered, a scalar; None where the optimizer sees all of them."""

    @abstractmethod
    def traffic(self) -> dict[str, Int64[torch.Tensor, "two experts"]]:
        """Of each module of experts that trains: by expert, the pairs of token and expert in all backward passes so
        far, and those among them whose output had a gradient."""

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
        bank: AdapterBank,
        routing: PolicyRouting,
        optimizer: str = DEFAULT_OPTIMIZER,
        cuts: BaseCuts = WHOLE,
    ) -> None:
        super().__init__(name, method.optimizer or optimizer)
        require_able(method, self._optimizer_type.spec, cut=cuts.any)
        self.method = method
        self.matrices = matrices
        self.parts = cuts.adapter(bank.layout)
        self._inputs = cuts.inputs(matrices)
        self.seed = seed
        self.bank = bank
        self._model = model
        self._routing = routing
        self._gathered = False
        """Whether its gradients are those of all ranks."""
        if method.convention != DEFAULT_CONVENTION and not any(matrix.experts for matrix in matrices):
            raise TargetError(
                f"{method.convention} is a convention for experts, and none are targeted here. Leave it out."
            )
        self._pieces: list[tuple[slice, nn.Parameter]] = []
        """What the optimizer steps when that is not all of `_flat` at one rate: neighbouring numbers of it."""
        generator = torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        carriers = {matrix.name: _adapted(model, matrix, routing) for matrix in matrices}
        start = bank.known_start(method)
        if start is None:
            start = {}
            for matrix in matrices:
                carrier = carriers[matrix.name]
                form, seen = form_of(matrix, carrier.base), _seen(cuts, method, matrix, carrier)
                # Drawn whole, then cut: a seed is the same adapter on any number of ranks.
                found = form.start(method, cuts.whole(matrix), seen, generator)
                start[matrix.name] = self.parts.own_start(matrix.name, found)
        bank.add(name, start, device, method)
        for carrier in carriers.values():
            if bank not in carrier.banks:
                carrier.banks.append(bank)
        # Parameters once and for all: what they view changes with the bank, what an optimizer knows them by does not.
        self._flat = nn.Parameter(bank.weights[-1])
        self.weights = {key: nn.Parameter(view) for key, view in bank.views(self._flat.detach(), method).items()}
        self.initial = {key: nn.Parameter(view, requires_grad=False) for key, view in self._initial_views().items()}
        self._adapters = self._views(self.weights, self.initial)
        if method.dora:
            for key, adapter in self._adapters.items():
                carrier = carriers[key]
                assert adapter.magnitude is not None
                assert not isinstance(carrier, LoRAExperts)
                weight, add_up = whole(carrier.matrix), routing.add_up.get(key)
                adapter.magnitude.data.copy_(row_norms(weight, *adapter.factors(), adapter.scale, add_up))
        numbers = sum(self.parts.numbers(block.name, self._flat[block.place]) for block in bank.slices)
        if self._optimizer_type.spec.slices(numbers, cuts.ranks.replicas.count) > 1:
            self.slices = StateSlices(cuts.ranks.replicas, tuple(bank.slices), method)
        self.optimizer = self._optimizer()

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return self.method.scale

    @property
    def expert_scale(self) -> float:
        """The same on matrices of experts, whose rank is by the method's convention; they are alike in a base."""
        ranks = [rank_on(self.method, matrix) for matrix in self.matrices if matrix.experts]
        return self.method.scale_of(ranks[0] if ranks else self.method.rank)

    @property
    def adapters(self) -> dict[str, LoRAWeights]:
        """By matrix. SpecError where they are parts of those of several ranks."""
        if self.parts.cuts:
            raise SpecError(
                f"the adapter {self.name} lies in parts on several ranks. Save the policy, and load it on one device."
            )
        return self._adapters

    def whole_adapters(self) -> dict[str, LoRAWeights]:
        """The same, put together where they are parts: every rank must ask."""
        if not self.parts.cuts:
            return self._adapters
        weights, initial = (
            {key: nn.Parameter(self.parts.joined(key, own.detach()), requires_grad=False) for key, own in some.items()}
            for some in (self.weights, self.initial)
        )
        return self._views(weights, initial)

    @property
    def slot(self) -> int:
        """Its row in the bank."""
        return self.bank.members.index(self.name)

    def dropout(self, rows: Sequence[tuple[int, int]]) -> Dropout | None:
        """That of the pass to come, for rows of these (numbers, tokens); or None."""
        if not self.method.dropout:
            return None
        return Dropout(self.method.dropout, self.seed, self.steps, rows, self._inputs)

    def before_backward(self) -> None:
        self._gathered = False
        if self.bank.need_gradients() or self._flat.grad is None:
            self.refresh_views()

    def gather_gradients(self) -> None:
        if self._flat.grad is not None and not self._gathered:
            self.parts.add_gradients(self._named(self._flat.grad), self._flat.grad)
        self._gathered = True

    def gradient_norm(self) -> torch.Tensor | None:
        gradient = self._flat.grad
        if gradient is None:
            return None
        norm = self.parts.norm(self._named(gradient))
        if norm is None and self.slices is not None:
            places = [slice(None)] if self._one_rate else [block.place for block in self.bank.slices]
            return torch.nn.utils.get_total_norm([gradient[place] for place in places])
        return norm

    def take_step(self, params: StepParams) -> torch.Tensor:
        norm = super().take_step(params)
        if self.slices is not None and self._flat.grad is not None:
            self.slices.share(self._flat.detach())
            self._flat.grad.zero_()
        return norm

    def watched(self, step: int) -> list[str]:
        suffix = {1: ".lora_B", 2: ".lora_A"}.get(step, "\0")
        return [name for name in self.weights if name.endswith(suffix)]

    def traffic(self) -> dict[str, Int64[torch.Tensor, "two experts"]]:
        names = dict.fromkeys(carrier_name(matrix) for matrix in self.matrices if matrix.experts)
        carriers = {name: self._model.get_submodule(name) for name in names}
        # Ranks ask each other: one that has computed nothing of this policy counts zeros.
        return {
            name: carrier.of_policy(self.name)
            for name, carrier in carriers.items()
            if isinstance(carrier, LoRAExperts) and (self.name in carrier.traffic or not self.parts.ranks.alone)
        }

    def refresh_views(self) -> None:
        """View the bank as it is now: after it has got or lost a member, or its gradients."""
        gradients, row = self.bank.gradients, self.bank.weights[self.slot]
        if gradients is None and self.bank.initial is None and self._flat.data_ptr() == row.data_ptr():
            return
        pairs = [(self._flat, row), *((piece, row[place]) for place, piece in self._pieces)]
        pairs += [(self.weights[key], view) for key, view in self._named(row).items()]
        pairs += [(self.initial[key], view) for key, view in self._initial_views().items()]
        for parameter, view in pairs:
            parameter.data = view
        if gradients is None:
            return
        own = self._flat.grad = gradients[self.slot]
        for place, piece in self._pieces:
            piece.grad = own[place]
        for key, view in self._named(own).items():
            self.weights[key].grad = view

    def detach(self) -> None:
        """A matrix that carries no adapter any more is put back as it was."""
        for name in self.traffic():
            experts = self._model.get_submodule(name)
            assert isinstance(experts, LoRAExperts)
            experts.traffic.pop(self.name, None)
        self.bank.remove(self.name)
        pieces = (piece for _, piece in self._pieces)
        for parameter in (self._flat, *pieces, *self.weights.values(), *self.initial.values()):
            # Else the bank stays in memory as it was, until Python looks for circles.
            parameter.data, parameter.grad = parameter.data.new_empty(0), None
        if self.bank.members:
            return
        for name in {carrier_name(matrix): None for matrix in self.matrices}:
            carrier = self._model.get_submodule(name)
            assert isinstance(carrier, Carrier)
            carrier.banks.remove(self.bank)
            if not carrier.banks:
                _replace(self._model, name, carrier.base)

    def _optimizer(self) -> PolicyOptimizer[Any]:
        """One vector for all that learns at one rate; else a vector for each weight, with its own. Each weight where
        the optimizer takes them one by one. Of slices, this rank's part of them."""
        method, slices = self.method, self.slices
        if not self._optimizer_type.spec.ELEMENTWISE:
            rates = [method.a_rate if name.endswith(".lora_A") else method.b_rate for name in self.weights]
            return self._optimizer_type(by_name(self.weights), gradients_stay=True, rates=rates)
        if slices is None and self._one_rate:
            return self._optimizer_type([(self._flat, self._named)], gradients_stay=True)
        stepped: list[tuple[slice, Names]]
        rates = [method.a_rate if block.name.endswith(".lora_A") else method.b_rate for block in self.bank.slices]
        if slices is None:
            stepped = [(block.place, partial(_view, block, method)) for block in self.bank.slices]
        elif self._one_rate:
            stepped, rates = [(slices.own, slices.runs)], [1.0]
        else:
            stepped = [(slices.of_weight(block), partial(_run, block.name)) for block in self.bank.slices]
        flat = self._flat.detach()
        self._pieces = [(place, nn.Parameter(flat[place])) for place, _ in stepped]
        named = [(piece, names) for (_, piece), (_, names) in zip(self._pieces, stepped, strict=True)]
        return self._optimizer_type(named, gradients_stay=True, rates=rates)

    @property
    def _one_rate(self) -> bool:
        return self.method.a_rate == self.method.b_rate == 1

    def _views(
        self, weights: Mapping[str, nn.Parameter], initial: Mapping[str, nn.Parameter]
    ) -> dict[str, LoRAWeights]:
        found = {}
        for matrix in self.matrices:
            a, b = f"{matrix.name}.lora_A", f"{matrix.name}.lora_B"
            start = (initial[a], initial[b]) if initial else None
            scale = self.expert_scale if matrix.experts else self.scale
            magnitude = weights.get(f"{matrix.name}.lora_magnitude")
            found[matrix.name] = LoRAWeights(weights[a], weights[b], scale, start, magnitude)
        return found

    def _initial_views(self) -> dict[str, torch.Tensor]:
        if self.bank.initial is None:
            return {}
        views = self._named(self.bank.initial[self.slot])
        return {key: view for key, view in views.items() if not key.endswith(".lora_magnitude")}

    def _named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.bank.views(flat, self.method)


def _view(block: WeightSlice, method: LoRA, numbers: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """One weight by its name."""
    return {block.name: block.view(numbers, method)}


def _run(name: str, numbers: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """The part of one weight that lies here, by its name."""
    return {name: numbers}


def _adapted(model: PreTrainedModel, matrix: Matrix, routing: PolicyRouting) -> Carrier:
    """What carries adapters at this place, put there when it is still the plain module."""
    name = carrier_name(matrix)
    module = model.get_submodule(name)
    if isinstance(module, Carrier):
        return module
    carrier = form_of(matrix, module).carry(matrix, module, routing)
    _replace(model, name, carrier)
    return carrier


@dataclass(frozen=True)
class _Whole:
    """A module whose weight was put together, as a start of an adapter reads it."""

    matrix: torch.Tensor


def _seen(cuts: BaseCuts, method: LoRA, matrix: Matrix, carrier: Carrier) -> Carrier | _Whole:
    """What a start reads: a residual one all of the weight, of which there may be a part here; others nothing."""
    if not method.residual or isinstance(carrier, LoRAExperts):
        return carrier
    return _Whole(cuts.joined(matrix, carrier.matrix))


def _replace(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
