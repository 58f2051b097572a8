"""Proof that training touches what it was told to touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowregret.engine.policy import LoRAPolicy, Policy
from lowregret.errors import LivenessError
from lowregret.runs.atomic import read_json
from lowregret.runs.files import EXPERTS


@dataclass(frozen=True)
class ExpertUse:
    """What one module of experts got in training so far."""

    module: str
    pairs: tuple[int, ...]
    """Pairs of token and expert, by expert, in all backward passes since the process began; padding, where a base needs
    it, is sent to experts like any token."""
    reached: tuple[int, ...]
    """Those among them whose output had a gradient: padding has none, and in the last layer only supervised positions
    have one."""

    @property
    def untrained(self) -> tuple[int, ...]:
        """Experts that no token with a gradient was sent to: they are as they were at the start."""
        return tuple(expert for expert, count in enumerate(self.reached) if not count)

    def facts(self) -> dict[str, Any]:
        """For a record; `untrained` comes first, because that is what to look at."""
        return {"untrained": list(self.untrained), "pairs": list(self.pairs), "reached": list(self.reached)}


def untrained_experts(trials: Sequence[Path]) -> list[str]:
    """What finished trials say of their experts, in lines for the user; [] for a base without experts."""
    kept = [read_json(trial / EXPERTS) for trial in trials if (trial / EXPERTS).exists()]
    if not kept:
        return []
    idle: dict[str, set[int]] = {}
    for found in kept:
        for module, use in found.items():
            idle.setdefault(module, set()).update(use["untrained"])
    several = f" in each of {len(kept)} trials" if len(kept) > 1 else ""
    some = f" in at least one of {len(kept)} trials" if len(kept) > 1 else ""
    if not any(idle.values()):
        counts = sorted({len(use["pairs"]) for use in kept[0].values()})
        return [f"experts: all {' or '.join(map(str, counts))} of each of {len(idle)} layers were trained{several}"]
    return [
        f"experts: {module}: {', '.join(map(str, sorted(found)))} got no token with a gradient{some} and are as they "
        f"were at the start ({EXPERTS})"
        for module, found in idle.items()
        if found
    ]


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

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._probes: dict[str, _Probe] = {}
        self._before: dict[str, Tensor] = {}
        """The traffic before the step to come."""

    def before_step(self, step: int) -> None:
        """Call between backward and the optimizer, `step` from 1."""
        watched = self._watched(step)
        if not watched:
            return
        traffic = self._policy.traffic()
        fresh = {name: counts - self._before.get(name, 0) for name, counts in traffic.items()}
        self._before = {name: counts.clone() for name, counts in traffic.items()}
        self._probes = {name: self._probe(name, fresh) for name in watched}

    def after_step(self, step: int) -> None:
        """Call after the optimizer; raises LivenessError with the names of what is dead."""
        silent, still = [], []
        for name, probe in self._probes.items():
            weight = self._policy.weights[name].detach()
            now = _rows(weight, probe).gather(1, probe.place[:, None])[:, 0]
            silent += _named(name, probe, probe.gradient == 0)
            still += _named(name, probe, now == probe.value)
        self._probes = {}
        for names, what in ((silent, "received no gradient"), (still, "did not move")):
            if names:
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                raise LivenessError(
                    f"in step {step}, {len(names)} of the targeted matrices {what}: {shown}. The base does not use "
                    "them in its forward pass, or the learning rate is too small for their precision. Leave them out "
                    "with a target re:REGEX, or raise the rate."
                )

    def experts(self) -> list[ExpertUse]:
        """Which experts got tokens and gradient so far; the list is empty for a base without, and before a step."""
        return [
            ExpertUse(name, *(tuple(counts) for counts in both.tolist()))
            for name, both in self._policy.traffic().items()
        ]

    def _watched(self, step: int) -> list[str]:
        names = self._policy.weights
        if isinstance(self._policy, LoRAPolicy):
            suffix = {1: ".lora_B", 2: ".lora_A"}.get(step, "\0")
            return [name for name in names if name.endswith(suffix)]
        return [name for name, weight in names.items() if weight.ndim >= 2] if step == 1 else []

    def _probe(self, name: str, fresh: dict[str, Tensor]) -> _Probe:
        weight = self._policy.weights[name]
        module = name.removesuffix(".lora_A").removesuffix(".lora_B").rpartition(".")[0]
        expected = self._expected(name, fresh[module][1]) if module in fresh and weight.ndim == 3 else None
        rows = weight.detach().flatten(1) if expected is not None else weight.detach().flatten()[None]
        if weight.grad is None:
            place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            return _Probe(place, rows.gather(1, place[:, None])[:, 0], rows.new_zeros(len(rows)), expected)
        gradients = weight.grad.flatten(1) if expected is not None else weight.grad.flatten()[None]
        place = gradients.abs().argmax(1)
        value, gradient = (found.gather(1, place[:, None])[:, 0].clone() for found in (rows, gradients))
        return _Probe(place, value, gradient, expected)

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


def _named(name: str, probe: _Probe, dead: Tensor) -> list[str]:
    """The name of a dead matrix, or of an expert's."""
    if probe.expected is None:
        return [name] if bool(dead) else []
    return [f"{name} of expert {expert}" for expert in (dead & probe.expected).nonzero()[:, 0].tolist()]
