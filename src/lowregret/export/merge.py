"""A LoRA's update added to the base's own weights."""

from __future__ import annotations

import torch
from transformers.pytorch_utils import Conv1D

from lowregret.engine.engine import Engine
from lowregret.engine.policy import LoRAPolicy
from lowregret.errors import ModelError
from lowregret.export.experts import merge_experts
from lowregret.lora.linear import LoRALinear
from lowregret.lora.moe.router import LoRARouter


@torch.no_grad()
def merge(engine: Engine, name: str) -> None:
    """Make a LoRA's update one of the base's weights and take the policy off: W ← W + scale · B A, or DoRA's of it.

    A tied unembedding is untied first, because the embedding must stay as it is. Other policies then sit on the merged
    base.
    """
    policy = engine.policies[name]
    if not isinstance(policy, LoRAPolicy):
        raise ModelError(f"{name!r} is not a LoRA: there is nothing to merge.")
    if engine.base.quantisation != "none":
        raise ModelError(
            f"{name!r} is on a base in {engine.base.quantisation}, which is not written to. Export it, and merge it "
            "into the base as it is: lowregret merge --adapter FOLDER."
        )
    for matrix in policy.matrices:
        module, adapter = matrix.name, policy.adapters[matrix.name]
        if matrix.experts:
            merge_experts(engine, matrix, adapter)
            continue
        linear = engine.model.get_submodule(module)
        assert isinstance(linear, LoRALinear | LoRARouter)
        weight = linear.base.weight
        assert isinstance(weight, torch.nn.Parameter)
        if weight is engine.model.get_input_embeddings().weight:
            weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
            linear.base.weight = weight
            engine.model.config.tie_word_embeddings = False
        merged = adapter.merged(linear.matrix)
        weight.copy_(merged.T if isinstance(linear.base, Conv1D) else merged)
    engine.remove_policy(name)
    for other in engine.policies.values():
        if isinstance(other, LoRAPolicy):
            other.bank.origins.clear()  # what was found in the base before is not what would be found now
