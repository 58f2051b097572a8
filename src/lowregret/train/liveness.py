"""Proof that training touches what it was told to touch."""

from __future__ import annotations

import torch
from torch import Tensor

from lowregret.engine.policy import LoRAPolicy, Policy
from lowregret.errors import LivenessError


class Liveness:
    """Watches the first steps: every targeted matrix must receive gradient and move.

    B starts at zero, so in step 1 the gradient of A is zero by construction and B must move; A must move in step 2.
    FullFT: every weight matrix must move in step 1.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._probes: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def before_step(self, step: int) -> None:
        """Call between backward and the optimizer, `step` from 1."""
        self._probes = {name: _probe(self._policy.weights[name]) for name in self._watched(step)}

    def after_step(self, step: int) -> None:
        """Call after the optimizer; raises LivenessError with the names of what is dead."""
        silent = [name for name, (_, _, gradient) in self._probes.items() if not gradient]
        still = [
            name
            for name, (place, before, _) in self._probes.items()
            if torch.equal(before, self._policy.weights[name].detach().flatten()[place])
        ]
        self._probes = {}
        for names, what in ((silent, "received no gradient"), (still, "did not move")):
            if names:
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                raise LivenessError(
                    f"in step {step}, {len(names)} of the targeted matrices {what}: {shown}. The base does not use "
                    "them in its forward pass, or the learning rate is too small for their precision. Leave them out "
                    "with a target re:REGEX, or raise the rate."
                )

    def _watched(self, step: int) -> list[str]:
        names = self._policy.weights
        if isinstance(self._policy, LoRAPolicy):
            suffix = {1: ".lora_B", 2: ".lora_A"}.get(step, "\0")
            return [name for name in names if name.endswith(suffix)]
        return [name for name, weight in names.items() if weight.ndim >= 2] if step == 1 else []


def _probe(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(place, value, gradient) of the element with the largest gradient: it tells, and a copy would cost memory."""
    if weight.grad is None:
        place, gradient = torch.zeros(1, dtype=torch.int64, device=weight.device), weight.new_zeros(1)
    else:
        place = weight.grad.abs().argmax()[None]
        gradient = weight.grad.flatten()[place]
    return place, weight.detach().flatten()[place].clone(), gradient
