"""AdamW for one policy, with hyper-parameters that may change from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
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


class PolicyOptimizer:
    """torch's AdamW over the named weights of one policy, with its state as a flat dict of tensors."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._weights = dict(weights)
        self._adam = torch.optim.AdamW(self._weights.values(), fused=True)

    def step(self, params: AdamParams) -> float:
        """Apply the accumulated gradients, clear them, and return their global norm before clipping."""
        with_gradient = [weight for weight in self._weights.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([w.grad for w in with_gradient if w.grad is not None])
        if params.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, params.clip_norm, norm)
        for group in self._adam.param_groups:
            group.update(
                lr=params.learning_rate,
                betas=(params.beta1, params.beta2),
                eps=params.eps,
                weight_decay=params.weight_decay,
            )
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts: {"exp_avg/<weight>": …, "exp_avg_sq/<weight>": …, "step/<weight>": …}."""
        found: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            for key, value in self._adam.state.get(weight, {}).items():
                found[f"{key}/{name}"] = value
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; weights that it does not name start afresh."""
        self._adam.state.clear()
        for key, value in state.items():
            kind, _, name = key.partition("/")
            weight = self._weights[name]
            # The step count stays where the optimizer keeps it: with the weight, in float32.
            self._adam.state[weight][kind] = value.to(weight.device, copy=True)
