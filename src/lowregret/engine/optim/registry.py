"""All optimizers, by the kind that a spec names: tests/laws/test_optimizer.py runs over what is here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lowregret.engine.optim.adafactor import AdafactorOptimizer
from lowregret.engine.optim.adamw import AdamWOptimizer, NearestOptimizer
from lowregret.engine.optim.lean_adamw import AdamW8bitOptimizer, BF16Optimizer, BF16SplitOptimizer
from lowregret.engine.optim.muon import MuonOptimizer
from lowregret.engine.optim.optimizer import PolicyOptimizer, StepParams
from lowregret.errors import SpecError, did_you_mean
from lowregret.spec.optimizer import OptimizerSpec

OPTIMIZERS: Mapping[str, type[PolicyOptimizer[Any]]] = MappingProxyType(
    {
        "adamw": AdamWOptimizer,
        "adamw8bit": AdamW8bitOptimizer,
        "bf16": BF16Optimizer,
        "bf16-split": BF16SplitOptimizer,
        "bf16-nearest": NearestOptimizer,
        "adafactor": AdafactorOptimizer,
        "muon": MuonOptimizer,
    }
)
"""{kind: what steps a policy}."""


def optimizer_of(kind: str) -> type[PolicyOptimizer[Any]]:
    """The optimizer of this kind; SpecError when there is none."""
    if kind not in OPTIMIZERS:
        raise SpecError(f"unknown optimizer {kind!r}. {did_you_mean(kind, OPTIMIZERS)}")
    return OPTIMIZERS[kind]


def step_params(spec: OptimizerSpec, learning_rate: float) -> StepParams:
    """What `Engine.optim_step` takes for a policy whose optimizer is this one, at a step's learning rate."""
    return optimizer_of(spec.name).params.of(spec, learning_rate)
