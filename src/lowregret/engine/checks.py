"""What is asked of an engine's policies beside its verbs; all ranks answer together, or give rank 0 their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from lowregret.engine.engine import Engine
from lowregret.engine.optim.in_backward import InBackward
from lowregret.engine.optim.optimizer import StepParams
from lowregret.engine.parallel.lead import together
from lowregret.engine.policy import LoRAPolicy
from lowregret.engine.state import restore_part, save_states
from lowregret.lora.linear import LoRALinear
from lowregret.lora.moe.router import LoRARouter
from lowregret.lora.weights import LoRAWeights
from lowregret.models.sharded import whole
from lowregret.models.targets import Matrix


@together
def announce(engine: Engine, params: Mapping[str, StepParams]) -> None:
    """Before the pass of a step: its hyper-parameters, by policy, for those that step in the backward pass."""
    for name, step in params.items():
        optimizer = engine.policies[name].optimizer
        if isinstance(optimizer, InBackward):
            optimizer.announce(step)


@together
def before_step(engine: Engine, policies: Sequence[str]) -> None:
    """Look at the gradients of a step, once they are complete: see `Liveness`."""
    for name in policies:
        policy = engine.policies[name]
        policy.gather_gradients()
        if watched := policy.watched(policy.steps + 1):
            policy.liveness.before_step(watched, engine.cuts.own_traffic(traffic(engine, name)))


@together
def after_step(engine: Engine, policies: Sequence[str]) -> None:
    """Look at what the step has moved; LivenessError with the names of what is dead."""
    for name in policies:
        policy = engine.policies[name]
        policy.liveness.after_step(policy.steps)


@together
def traffic(engine: Engine, policy: str) -> dict[str, Int64[Tensor, "two experts"]]:
    """`Policy.traffic` of all ranks."""
    return {name: engine.cuts.all_traffic(name, count) for name, count in engine.policies[policy].traffic().items()}


@together
def forget_gradients(engine: Engine, policy: str) -> None:
    """What passes have left of a step that will not be taken."""
    for weight in engine.policies[policy].weights.values():
        if weight.grad is not None:
            weight.grad.zero_()


@together
def save_together(engine: Engine, policies: Mapping[str, str], path: Path, metadata: Mapping[str, str]) -> None:
    """The states of policies, prefix → name, in one file, which rank 0 writes."""
    save_states({prefix: engine.policies[name] for prefix, name in policies.items()}, path, metadata, engine.ranks)


@together
def whole_adapters(engine: Engine, policy: str) -> dict[str, LoRAWeights]:
    """A LoRA by matrix, put together."""
    found = engine.policies[policy]
    assert isinstance(found, LoRAPolicy)
    return found.whole_adapters()


@together
def whole_matrix(engine: Engine, matrix: Matrix) -> Tensor:
    """The weight [d_out, d_in] of an adapted matrix, put together."""
    carrier = engine.model.get_submodule(matrix.name)
    assert isinstance(carrier, LoRALinear | LoRARouter)
    return engine.cuts.joined(matrix, whole(carrier.matrix))


@together
def restore(engine: Engine, policy: str, path: Path, prefix: str) -> None:
    """Copy a state into a policy: of a file that every rank can read, what has names under `prefix`.

    RecordsError when it does not fit.
    """
    restore_part(engine.policies[policy], path, prefix)
