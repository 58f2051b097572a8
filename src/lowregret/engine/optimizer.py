"""AdamW for one policy, with hyper-parameters that may change from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class AdamParams:
    """One step's hyper-parameters; decay is decoupled: w ← w − lr · weight_decay · w."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Gradients are scaled down to this global norm when they exceed it."""


Names = Callable[[Tensor], Mapping[str, Tensor]]
"""The named weights in a tensor of a parameter's shape: its values, its gradient or a moment, as views."""


def by_name(weights: Mapping[str, nn.Parameter]) -> list[tuple[nn.Parameter, Names]]:
    """Parameters that hold one weight each, for a PolicyOptimizer."""
    return [(weight, partial(_only, name)) for name, weight in weights.items()]


def _only(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {name: weight}


class PolicyOptimizer:
    """torch's AdamW over the parameters of one policy, with its state as a flat dict of tensors, by weight.

    `parameters` come each with its names. With `gradients_stay` gradients are zeroed where they are; else dropped.
    `rates`, one for each parameter, multiply a step's learning rate (and with it the decay).
    """

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, Names]],
        *,
        gradients_stay: bool,
        rates: Sequence[float] | None = None,
    ) -> None:
        self._parameters = parameters
        self._gradients_stay = gradients_stay
        by_rate: dict[float, list[nn.Parameter]] = {}
        for (parameter, _), rate in zip(parameters, rates or [1.0] * len(parameters), strict=True):
            by_rate.setdefault(rate, []).append(parameter)
        self._rates = list(by_rate)
        self._adam = torch.optim.AdamW([{"params": own} for own in by_rate.values()], fused=True)

    def step(self, params: AdamParams) -> Float[Tensor, ""]:
        """Apply the accumulated gradients, clear them, and return their global norm before clipping."""
        with_gradient = [parameter for parameter, _ in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
        if params.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, params.clip_norm, norm)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group.update(
                lr=params.learning_rate * rate,
                betas=(params.beta1, params.beta2),
                eps=params.eps,
                weight_decay=params.weight_decay,
            )
        self._adam.step()
        self._adam.zero_grad(set_to_none=not self._gradients_stay)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts: {"exp_avg/<weight>": …, "exp_avg_sq/<weight>": …, "step/<weight>": …}."""
        found: dict[str, Tensor] = {}
        for parameter, names in self._parameters:
            for kind, value in self._adam.state.get(parameter, {}).items():
                if kind == "step":
                    found |= {f"step/{name}": value for name in names(parameter.detach())}
                else:
                    found |= {f"{kind}/{name}": view for name, view in names(value).items()}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; weights that it does not name start afresh."""
        self._adam.state.clear()
        for parameter, names in self._parameters:
            for kind in ("exp_avg", "exp_avg_sq"):
                moment = torch.zeros_like(parameter)
                for name, view in names(moment).items():
                    if f"{kind}/{name}" in state:
                        view.copy_(state[f"{kind}/{name}"])
                        self._adam.state[parameter][kind] = moment
                        # The step count stays where the optimizer keeps it: with the weight, in float32.
                        step = state[f"step/{name}"]
                        self._adam.state[parameter]["step"] = step.to(parameter.device, copy=True)
