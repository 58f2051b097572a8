"""Proof that training touches what it was told to touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lowregret.errors import LivenessError
from lowregret.models.sharded import whole


class Weights(Protocol):
    """A policy."""

    weights: dict[str, nn.Parameter]


@dataclass(frozen=True)
class _Probe:
    """The element with the largest gradient of a matrix, or of each expert's: it tells, and a copy costs memory."""

    place: Tensor
    value: Tensor
    gradient: Tensor
    expected: Tensor | None
    """Of experts: bool, which of them must have a gradient and move."""


class Liveness:
    """Watches the first steps: every targeted matrix must receive gradient and move.

    B starts at zero, so in step 1 the gradient of A is zero by construction and B must move; A must move in step 2.
    FullFT: every weight matrix must move in step 1. Of the matrices of experts, each that a token with a gradient was
    sent to must, one by one; of A in step 2, those whose B has moved by then.
    """

    def __init__(self, policy: Weights) -> None:
        self._policy = policy
        self._probes: dict[str, _Probe] = {}
        self._before: dict[str, Tensor] = {}
        """The traffic before the step to come."""

    def before_step(self, watched: Sequence[str], traffic: Mapping[str, Tensor]) -> None:
        """Call between backward and the optimizer, when gradients are complete, for the weights that a step must move.

        `traffic` is that of all ranks.
        """
        fresh = {name: counts - self._before.get(name, 0) for name, counts in traffic.items()}
        self._before = {name: counts.clone() for name, counts in traffic.items()}
        self._probes = {name: self._probe(name, fresh) for name in watched}

    def after_step(self, step: int) -> None:
        """Call after the optimizer; raises LivenessError with the names of what is dead."""
        found = {name: self._dead(name, probe) for name, probe in self._probes.items()}
        told = iter(torch.cat(list(found.values()), 1).T.tolist() if found else ())  # a GPU is waited for once
        silent, still = [], []
        for name, dead in found.items():
            for place in range(dead.shape[1]):
                no_gradient, no_move = next(told)
                shown = name if self._probes[name].expected is None else f"{name} of expert {place}"
                silent += [shown] * no_gradient
                still += [shown] * no_move
        self._probes = {}
        for names, what in ((silent, "received no gradient"), (still, "did not move")):
            if names:
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                raise LivenessError(
                    f"in step {step}, {len(names)} of the targeted matrices {what}: {shown}. The base does not use "
                    "them in its forward pass, or the learning rate is too small for their precision. Leave them out "
                    "with a target re:REGEX, or raise the rate."
                )

    def _dead(self, name: str, probe: _Probe) -> Bool[Tensor, "two places"]:
        """Of a matrix, or of each expert's that must: whether it got no gradient, and whether it did not move."""
        weight = whole(self._policy.weights[name].detach())
        now = _rows(weight, probe).gather(1, probe.place[:, None])[:, 0]
        dead = torch.stack([probe.gradient == 0, now == probe.value])
        return dead if probe.expected is None else dead & probe.expected

    def _probe(self, name: str, fresh: Mapping[str, Tensor]) -> _Probe:
        own = self._policy.weights[name]
        weight, gradient = whole(own.detach()), None if own.grad is None else whole(own.grad)
        module = name.removesuffix(".lora_A").removesuffix(".lora_B").rpartition(".")[0]
        expected = self._expected(name, fresh[module][1]) if module in fresh and weight.ndim == 3 else None
        rows = weight.flatten(1) if expected is not None else weight.flatten()[None]
        if gradient is None:
            place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            return _Probe(place, rows.gather(1, place[:, None])[:, 0], rows.new_zeros(len(rows)), expected)
        gradients = gradient.flatten(1) if expected is not None else gradient.flatten()[None]
        place = gradients.abs().argmax(1)
        value, largest = (found.gather(1, place[:, None])[:, 0].clone() for found in (rows, gradients))
        return _Probe(place, value, largest, expected)

    def _expected(self, name: str, reached: Tensor) -> Tensor:
        """Of which experts a weight must have a gradient, given the pairs that reached each."""
        alive = reached > 0
        if name.endswith(".lora_A"):
            b = self._policy.weights[name.removesuffix("A") + "B"].detach()
            alive = alive & (b != 0).flatten(1).any(1)  # of a B that is for all experts, one for all
        experts = self._policy.weights[name].shape[0]
        return alive if experts == len(alive) else alive.any()[None].expand(experts)


def _rows(weight: Tensor, probe: _Probe) -> Tensor:
    """A matrix as one row, or one row for each expert."""
    return weight.flatten()[None] if probe.expected is None else weight.flatten(1)
