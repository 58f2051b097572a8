"""What a trial ships: an adapter in PEFT's format, or a whole model in Hugging Face's; and an adapter back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.pytorch_utils import Conv1D

from lowregret.engine.engine import Engine
from lowregret.engine.policy import LoRAPolicy
from lowregret.engine.state import refusals, save_tensors
from lowregret.errors import ModelError, SpecError
from lowregret.export.experts import as_parameter, copy_experts, expert_loras, peft_experts, read_experts
from lowregret.lora.formats.peft import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    SavedAdapter,
    adapter_config,
    method_fields,
    read_adapter,
    to_peft_names,
)
from lowregret.lora.linear import LoRALinear
from lowregret.lora.moe.router import LoRARouter
from lowregret.models.finite import refuse_broken
from lowregret.models.load import quiet
from lowregret.models.stops import write_stops
from lowregret.runs.atomic import make_folder, sync_file, sync_folder, write_bytes, writing
from lowregret.spec import LoRA, build
from lowregret.strict_json import to_json


def export_policy(engine: Engine, name: str, folder: Path, *, each_expert: bool = False) -> int:
    """Write a policy to `folder`, replacing what is there once the new one is whole; returns the weights' bytes.

    LoRAs on experts are written as PEFT's target parameters, or with `each_expert` as a plain LoRA for each matrix of
    each expert, all at the method's rank, which vLLM reads (docs/guides/moe.md).
    """
    policy = engine.policies[name]
    partial = folder.with_name(folder.name + ".partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        try:
            if isinstance(policy, LoRAPolicy):
                _write_adapter(engine, policy, partial, each_expert)
            else:
                _write_model(engine, partial)
            write_stops(engine.base, partial)
            for file in partial.iterdir():
                sync_file(file)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        sync_folder(folder.parent)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def load_adapter(engine: Engine, name: str, folder: Path) -> LoRAPolicy:
    """Put a saved adapter on the base as the policy `name`; ModelError when it does not fit this base."""
    config, weights = read_adapter(folder)
    if not weights:
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds no LoRA matrices.")
    read = read_experts(engine, folder, config, weights)
    weights = read.plain
    known = {matrix.name: matrix for matrix in engine.matrices}
    for module in weights:
        if module not in known:
            raise ModelError(f"{folder}: adapts {module}, which this base does not have.")
    names = sorted({*weights, *read.experts})
    pattern = "re:^(" + "|".join(name.replace(".", r"\.") for name in names) + ")$"
    method = _method(folder, {**config, "convention": read.convention}, weights, pattern)
    for module, saved in weights.items():  # all of them before the policy is on: none is left behind half loaded
        needed = (method.rank, known[module].d_in), (known[module].d_out, method.rank)
        if (tuple(saved.a.shape), tuple(saved.b.shape)) != needed:
            raise ModelError(
                f"{folder}: {module} has A {tuple(saved.a.shape)} and B {tuple(saved.b.shape)}; this base needs "
                f"{needed[0]} and {needed[1]}."
            )
        if saved.magnitude is not None and saved.magnitude.shape != (known[module].d_out,):
            raise ModelError(
                f"{folder}: {module} has {saved.magnitude.numel()} magnitudes; this base needs {known[module].d_out}."
            )
        own = _weight(engine, module)
        if saved.base is not None and (saved.base.shape != own.shape or not torch.allclose(saved.base.to(own), own)):
            raise ModelError(f"{folder}: {module} was trained on other weights than this base has there.")
    policy = engine.add_policy(name, method)
    assert isinstance(policy, LoRAPolicy)
    with torch.no_grad():
        copy_experts(policy, read)
        for module, saved in weights.items():
            adapter = policy.adapters[module]
            adapter.a.copy_(saved.a)
            adapter.b.copy_(saved.b)
            if adapter.magnitude is not None and saved.magnitude is not None:
                adapter.magnitude.copy_(saved.magnitude)
    try:
        refuse_broken(str(folder), policy.weights, "It is a broken copy, or its training had diverged: give another.")
    except ModelError:
        engine.remove_policy(name)
        raise
    return policy


def _weight(engine: Engine, name: str) -> torch.Tensor:
    found: torch.nn.Parameter = engine.model.get_parameter(f"{name}.weight")
    return found.detach()


def _method(folder: Path, config: Mapping[str, Any], weights: Mapping[str, SavedAdapter], pattern: str) -> LoRA:
    """What adapter_config.json says the weights are; ModelError when it cannot be, or when they differ."""
    file = folder / CONFIG_NAME
    for field in ("r", "lora_alpha"):
        if field not in config:
            raise ModelError(f"{file}: {field} is missing.")
    fields = {**method_fields(config), "convention": config["convention"]}
    try:
        method = build(LoRA, {**fields, "targets": (pattern,)})
    except SpecError:
        rank, alpha, dropout = (fields[key] for key in ("rank", "alpha", "dropout"))
        raise ModelError(
            f"{file}: r is {rank!r}, lora_alpha is {alpha!r} and lora_dropout is {dropout!r}; "
            "they must be a whole number, a number above 0 and one from 0 to below 1."
        ) from None
    for module, saved in weights.items():
        rank = saved.a.shape[0]
        if rank != method.rank:
            raise ModelError(f"{file}: r is {method.rank}, but the matrix A of {module} has rank {rank}.")
    return method


@torch.no_grad()
def _write_adapter(engine: Engine, policy: LoRAPolicy, folder: Path, each_expert: bool) -> None:
    weights, experts = expert_loras(engine, policy) if each_expert else peft_experts(engine, policy)
    modules = []
    for matrix in policy.matrices:
        if matrix.experts:
            continue
        linear, adapter = engine.model.get_submodule(matrix.name), policy.adapters[matrix.name]
        assert isinstance(linear, LoRALinear | LoRARouter)
        weights[matrix.name] = SavedAdapter(*adapter.shipped(linear.matrix), adapter.magnitude)
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


def _write_model(engine: Engine, folder: Path) -> None:
    model: Any = engine.model
    own = getattr(model, "generation_config", None)
    try:
        if own is not None:  # transformers refuses to save what some bases came with: `write_stops` writes it as it is
            model.generation_config = GenerationConfig()
        with quiet(), refusals(folder):
            model.save_pretrained(folder)
            engine.base.tokenizer.save_pretrained(folder)
    finally:
        if own is not None:
            model.generation_config = own
