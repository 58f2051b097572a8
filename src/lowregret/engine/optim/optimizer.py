"""What all optimizers share: the parameters of one policy, clipping, and the state as a flat dict of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowregret.engine.parallel.fsdp import fill
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
    `rates`, one for each parameter, multiply a step's learning rate (and with it the decay).

    All that one step hands to the next is in `_kept`, under the names that the spec's STATE declares: this is what is
    saved and restored.
    """

    spec: ClassVar[type[OptimizerSpec]]
    """What declares its state and its hyper-parameters."""
    params: ClassVar[type[StepParams]]
    prefix: ClassVar[str]
    """What the names of its state begin with in a file of a policy's state."""

    _kept: MutableMapping[Any, Any]
    """{parameter: {name: tensor}}; a parameter without is as new. Set by the subclass."""

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, Names]],
        *,
        gradients_stay: bool,
        rates: Sequence[float] | None = None,
    ) -> None:
        self._parameters = parameters
        self._gradients_stay = gradients_stay
        self._by_rate: dict[float, list[nn.Parameter]] = {}
        for (parameter, _), rate in zip(parameters, rates or [1.0] * len(parameters), strict=True):
            self._by_rate.setdefault(rate, []).append(parameter)

    @abstractmethod
    def _update(self, params: P) -> None:
        """Move the parameters that have a gradient."""

    def step(self, params: P, norm: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """Apply the accumulated gradients, clear them, and return their global norm before clipping.

        `norm` is that of all gradients where these are a part of them; found here where they are all.
        """
        if not isinstance(params, self.params):
            raise TypeError(f"{self.spec.__name__} takes {self.params.__name__}, not {type(params).__name__}")
        with_gradient = [parameter for parameter, _ in self._parameters if parameter.grad is not None]
        if norm is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
        if params.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, params.clip_norm, norm)
        self._update(params)
        for parameter in with_gradient:
            if self._gradients_stay and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None
        return whole(norm)

    def state(self) -> dict[str, Tensor]:
        """All that is kept, by weight: {"<name in STATE>/<weight>": …}, views of the optimizer's own tensors."""
        found: dict[str, Tensor] = {}
        for parameter, names in self._parameters:
            for kind, value in self._kept.get(parameter, {}).items():
                if self.spec.STATE[kind] == "scalar":
                    found |= {f"{kind}/{name}": value for name in names(parameter.detach())}
                else:
                    found |= {f"{kind}/{name}": view for name, view in names(value).items()}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; weights that it does not name start afresh."""
        self._kept.clear()
        for parameter, names in self._parameters:
            own: dict[str, Tensor] = {}
            for kind, extent in self.spec.STATE.items():
                whole = torch.zeros_like(parameter)
                for name, view in names(whole).items():
                    saved = state.get(f"{kind}/{name}")
                    if saved is None:
                        continue
                    if extent == "scalar":  # it stays where the optimizer keeps it: with the weight
                        own[kind] = saved.to(parameter.device, copy=True)
                    else:
                        fill(view, saved)
                        own[kind] = whole
            if own:
                self._kept[parameter] = own
