"""What all optimizers share: the parameters of one policy, clipping, and the state as a flat dict of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowregret.engine.parallel.fsdp import fill, zeros_beside
from lowregret.models.sharded import whole
from lowregret.spec.optimizer import OptimizerSpec

Names = Callable[[Tensor], Mapping[str, Tensor]]
"""The named weights in a tensor of a parameter's shape: its values, its gradient or a moment, as views."""


def by_name(weights: Mapping[str, nn.Parameter]) -> list[tuple[nn.Parameter, Names]]:
    """Parameters that hold one weight each, for a PolicyOptimizer."""
    return [(weight, partial(_only, name)) for name, weight in weights.items()]


def _only(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {name: weight}


@dataclass(frozen=True)
class StepParams:
    """One step's hyper-parameters. Each kind of optimizer adds its own, with defaults."""

    learning_rate: float
    clip_norm: float | None = field(default=None, kw_only=True)
    """Gradients are scaled down to this global norm when they exceed it."""

    @classmethod
    def of(cls, spec: OptimizerSpec, learning_rate: float) -> Self:
        """Those that a spec asks for, at this step's rate."""
        names = {own.name for own in fields(cls)} - {"learning_rate"}
        return cls(learning_rate, **{name: getattr(spec, name) for name in names})


P = TypeVar("P", bound=StepParams)


class PolicyOptimizer(ABC, Generic[P]):
    """Steps the parameters of one policy; hyper-parameters may change from step to step.

    `parameters` come each with its names. With `gradients_stay` gradients are zeroed where they are; else dropped.
    `rates`, one for each parameter, multiply a step's learning rate (and with it the decay). `outside`: the names of
    embeddings and of the unembedding. One whose spec is not ELEMENTWISE takes one weight a parameter.

    All that one step hands to the next is in `_kept`, under the names that the spec's STATE declares: this is what is
    saved and restored.
    """

    spec: ClassVar[type[OptimizerSpec]]
    """What declares its state and its hyper-parameters."""
    params: ClassVar[type[StepParams]]
    prefix: ClassVar[str]
    """What the names of its state begin with in a file of a policy's state."""

    _kept: MutableMapping[Any, Any]
    """{parameter: {name: tensor}}; a parameter without is as new."""

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, Names]],
        *,
        gradients_stay: bool,
        rates: Sequence[float] | None = None,
        outside: Collection[str] = (),
    ) -> None:
        self._parameters = parameters
        self._gradients_stay = gradients_stay
        self._outside = frozenset(outside)
        self._by_rate: dict[float, list[nn.Parameter]] = {}
        for (parameter, _), rate in zip(parameters, rates or [1.0] * len(parameters), strict=True):
            self._by_rate.setdefault(rate, []).append(parameter)
        self._kept = self._start()

    @abstractmethod
    def _start(self) -> MutableMapping[Any, Any]:
        """Make ready to step the parameters, as they are by rate; returns what `_kept` is."""

    @abstractmethod
    def _update(self, params: P) -> None:
        """Move the parameters that have a gradient."""

    def _counted_on_host(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter's step count is read as a number, so that it stays in the host's memory."""
        return False

    def step(self, params: P, norm: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """Apply the accumulated gradients, clear them, and return their global norm before clipping.

        `norm` is that of all gradients where these are a part of them; found here where they are all.
        """
        if not isinstance(params, self.params):
            raise TypeError(f"{self.spec.__name__} takes {self.params.__name__}, not {type(params).__name__}")
        with_gradient = [parameter for parameter, _ in self._parameters if parameter.grad is not None]
        if norm is None:
            norm = total_norm([p.grad for p in with_gradient if p.grad is not None])
        if params.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, params.clip_norm, norm)
        self._update(params)
        for parameter in with_gradient:
            if self._gradients_stay and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None
        return whole(norm)

    def declared(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """What is kept of a weight of this name and shape, by the names in the spec: its shape and type."""
        found = self.spec.state_shapes(shape, outside=name in self._outside)
        return {kind: (own, getattr(torch, self.spec.dtype(kind, len(shape)))) for kind, own in found.items()}

    def state(self) -> dict[str, Tensor]:
        """All that is kept, by weight: {"<name in STATE>/<weight>": …}, views of the optimizer's own tensors."""
        found: dict[str, Tensor] = {}
        for parameter, names in self._parameters:
            for kind, value in self._kept.get(parameter, {}).items():
                if value.ndim == 0:
                    found |= {f"{kind}/{name}": value for name in names(parameter.detach())}
                else:
                    found |= {f"{kind}/{name}": view for name, view in names(value).items()}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; weights that it does not name start afresh."""
        self._kept.clear()
        for parameter, names in self._parameters:
            own = self._fresh(parameter) if self.spec.ELEMENTWISE else self._fresh_of_one(parameter, names)
            loaded: dict[str, Tensor] = {}
            for kind, value in own.items():
                for name, view in names(parameter.detach() if value.ndim == 0 else value).items():
                    saved = state.get(f"{kind}/{name}")
                    if saved is None:
                        continue
                    loaded[kind] = value
                    fill(value if value.ndim == 0 else view, saved)
            if loaded:
                self._kept[parameter] = loaded

    def _fresh(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is kept of weights that are stepped as one vector, or as they are, all zero."""
        return {
            kind: torch.zeros((), device=parameter.device)
            if extent == "scalar"
            else torch.zeros_like(parameter.detach(), dtype=getattr(torch, self.spec.dtype(kind, parameter.ndim)))
            for kind, extent in self.spec.kept(parameter.ndim).items()
        }

    def _fresh_of_one(self, parameter: nn.Parameter, names: Names) -> dict[str, Tensor]:
        """What is kept of one weight, all zero."""
        (name,) = names(parameter.detach())
        device = torch.device("cpu") if self._counted_on_host(parameter) else parameter.device
        return {
            kind: zeros_beside(parameter.detach(), shape, dtype) if shape else torch.zeros((), device=device)
            for kind, (shape, dtype) in self.declared(name, tuple(parameter.shape)).items()
        }


def total_norm(gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The norm of all, in float32: torch finds that of bfloat16 in bfloat16."""
    if all(gradient.dtype is not torch.bfloat16 for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    found: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return found
