"""What a trial ships: an adapter in PEFT's format, or a whole model in Hugging Face's; and an adapter back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D

from lowregret.activity import doing
from lowregret.engine.checks import whole_adapters, whole_matrix
from lowregret.engine.engine import Engine
from lowregret.engine.parallel.lead import together
from lowregret.engine.policy import LoRAPolicy
from lowregret.engine.state import refusals, save_tensors
from lowregret.errors import SpecError
from lowregret.export.adapter import FittedAdapter, fit_adapter
from lowregret.export.experts import as_parameter, copy_experts, expert_loras, peft_experts
from lowregret.export.streamed import write_weights
from lowregret.lora.formats.peft import WEIGHTS_NAME, SavedAdapter, adapter_config, to_peft_names
from lowregret.lora.formats.selection import CONFIG_NAME
from lowregret.lora.linear import LoRALinear
from lowregret.lora.moe.router import LoRARouter
from lowregret.models.load import Base, quiet
from lowregret.models.sharded import whole
from lowregret.models.stops import write_stops
from lowregret.runs.atomic import replacing_folder, write_bytes
from lowregret.strict_json import to_json


@doing("writing the weights")
def export_policy(engine: Engine, name: str, folder: Path, *, each_expert: bool = False) -> int:
    """Write a policy to `folder`, replacing what is there once the new one is whole; returns the weights' bytes.

    LoRAs on experts are written as PEFT's target parameters, or with `each_expert` as a plain LoRA for each matrix of
    each expert, all at the method's rank, which vLLM reads (docs/guides/moe.md).
    """
    policy = engine.policies[name]
    with replacing_folder(folder) as partial:
        if isinstance(policy, LoRAPolicy):
            _write_adapter(engine, policy, partial, each_expert)
        else:
            write_model(engine.base, partial, weights=engine.ranks.alone)
            if not engine.ranks.alone:
                write_weights(engine, partial)
        write_stops(engine.base, partial)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def load_adapter(engine: Engine, name: str, folder: Path, say: Callable[[str], None] = lambda line: None) -> LoRAPolicy:
    """Put a saved adapter on the base as the policy `name`; ModelError when it does not fit this base.

    `say` is told what PEFT warns of, too: layers that the file lacks, and another base than the adapter was made on.
    """
    if engine.ranks.expert.count > 1:
        raise SpecError(
            f"{folder}: an adapter's file is not put on a base whose experts are shared by {engine.ranks.expert.count} "
            "ranks. Load a state that an engine has saved, or leave expert out."
        )
    known = list(map(engine.cuts.whole, engine.matrices))
    fitted = fit_adapter(engine.model, known, folder)
    fitted.refuse_other_base(lambda weight: _own(engine, weight))
    for line in (*fitted.lacking(known), *fitted.other_name(engine.base.source.asked)):
        say(line)
    return _put(engine, name, fitted)


@together
@torch.no_grad()
def _put(engine: Engine, name: str, fitted: FittedAdapter) -> LoRAPolicy:
    method = fitted.method.model_copy(update={"quantisation": engine.base.quantisation})
    policy = engine.add_policy(name, method)
    assert isinstance(policy, LoRAPolicy)
    copy_experts(policy, fitted.experts)
    for module, saved in fitted.plain.items():
        for kind, value in (("lora_A", saved.a), ("lora_B", saved.b), ("lora_magnitude", saved.magnitude)):
            name = f"{module}.{kind}"
            if value is not None and name in policy.weights:
                policy.weights[name].copy_(policy.parts.own(name, value))
    return policy


@together
def _own(engine: Engine, name: str) -> torch.Tensor | None:
    """A weight of the base by its name there, put together."""
    module, _, last = name.rpartition(".")
    try:
        found = engine.model.get_submodule(module)
        own: torch.Tensor = getattr(found.base if isinstance(found, LoRALinear | LoRARouter) else found, last).detach()
    except AttributeError:
        return None
    return engine.cuts.base().joined(name, whole(own))


@torch.no_grad()
def _write_adapter(engine: Engine, policy: LoRAPolicy, folder: Path, each_expert: bool) -> None:
    adapters = whole_adapters(engine, policy.name)
    of_experts = expert_loras if each_expert else peft_experts
    weights, experts = of_experts(engine, policy, adapters)
    modules = []
    for matrix in policy.matrices:
        if matrix.experts:
            continue
        adapter = adapters[matrix.name]
        weight = None if adapter.magnitude is None else whole_matrix(engine, matrix)
        weights[matrix.name] = SavedAdapter(*adapter.shipped(weight), adapter.magnitude)
        modules += [] if not each_expert and as_parameter(engine, policy, matrix) else [matrix]
    first = engine.model.get_submodule(modules[0].name) if modules else None
    transposed = isinstance(first, LoRALinear) and isinstance(first.base, Conv1D)
    config = adapter_config(
        engine.base.source.asked,
        policy.method,
        modules,
        [matrix for matrix in engine.matrices if not matrix.experts],
        transposed,
    )
    config["target_modules"] = sorted({*config["target_modules"], *experts.pop("target_modules", ())})
    config |= experts
    save_tensors(to_peft_names(weights), folder / WEIGHTS_NAME, {"format": "pt"})
    write_bytes(folder / CONFIG_NAME, (to_json(config, indent=2) + "\n").encode())


def write_model(base: Base, folder: Path, *, weights: bool = True) -> None:
    """Write a base and its tokenizer into a folder by transformers, without generation_config.json; `weights`: with
    its weights, which are whole here."""
    model: Any = base.model
    own = getattr(model, "generation_config", None)
    try:
        if own is not None:  # transformers refuses to save what some bases came with: `write_stops` writes it as it is
            model.generation_config = GenerationConfig()
        with quiet(), refusals(folder):
            model.save_pretrained(folder, state_dict=None if weights else {})
            base.tokenizer.save_pretrained(folder)
    finally:
        if own is not None:
            model.generation_config = own
