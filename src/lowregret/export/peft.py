"""What a trial ships: an adapter in PEFT's format, or a whole model in Hugging Face's; and an adapter back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from lowregret.lora.formats.fields import method_fields
from lowregret.lora.formats.peft import (
    WEIGHTS_NAME,
    SavedAdapter,
    adapter_config,
    read_adapter,
    to_peft_names,
)
from lowregret.lora.formats.ranks import alike
from lowregret.lora.formats.selection import CONFIG_NAME, missing, selects
from lowregret.lora.linear import LoRALinear
from lowregret.lora.moe.router import LoRARouter
from lowregret.models.finite import refuse_broken
from lowregret.models.load import quiet
from lowregret.models.stops import write_stops
from lowregret.runs.atomic import replacing_folder, write_bytes
from lowregret.spec import LoRA, build
from lowregret.strict_json import to_json


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
            _write_model(engine, partial)
        write_stops(engine.base, partial)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def load_adapter(engine: Engine, name: str, folder: Path, say: Callable[[str], None] = lambda line: None) -> LoRAPolicy:
    """Put a saved adapter on the base as the policy `name`; ModelError when it does not fit this base.

    `say` is told what PEFT warns of, too: layers that the file lacks, and another base than the adapter was made on.
    """
    file = read_adapter(folder)
    if not file.weights:
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds no LoRA matrices.")
    read = read_experts(engine, folder, file.config, file.weights)
    known = {matrix.name: matrix for matrix in engine.matrices}
    for module in read.plain:
        if module not in known:
            raise ModelError(f"{folder}: adapts {module}, which this base does not have.")
        if selects(file.config, known[module]) is False:
            raise ModelError(
                f"{folder}: {WEIGHTS_NAME} has {module}, which {CONFIG_NAME} does not select: PEFT leaves such weights "
                "out. Take them out of the file, or add the module to target_modules."
            )
    config, weights = alike(folder, file.config, read.plain, fixed=bool(read.experts))
    names = sorted({*weights, *read.experts})
    pattern = "re:^(" + "|".join(name.replace(".", r"\.") for name in names) + ")$"
    method = _method(folder, {**config, "convention": read.convention}, pattern)
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
    for weight, copy in file.copies.items():
        _same_as_base(engine, folder, weight, copy)
    for line in _doubts(engine, folder, file.config, names):
        say(line)
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


def _same_as_base(engine: Engine, folder: Path, name: str, copy: torch.Tensor) -> None:
    """ModelError when a weight of the base that the file has, too, is not what this base has."""
    module, _, last = name.rpartition(".")
    try:
        found = engine.model.get_submodule(module)
        own = getattr(found.base if isinstance(found, LoRALinear | LoRARouter) else found, last).detach()
    except AttributeError:
        raise ModelError(
            f"{folder / WEIGHTS_NAME}: holds {name}, which is neither a LoRA nor a weight of this base. Merge the "
            "adapter into its base with PEFT (merge_and_unload) and give the merged model as --model."
        ) from None
    remedy = (
        "It was trained with the adapter, or the adapter belongs to another base. Give that base as --model; of a "
        "trained weight, the model that PEFT's merge_and_unload gives."
    )
    if copy.shape != own.shape:
        raise ModelError(
            f"{folder / WEIGHTS_NAME}: holds {name} as {tuple(copy.shape)}; this base has {tuple(own.shape)} there. "
            f"{remedy}"
        )
    coarser = min(copy.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
    if not torch.allclose(copy.to(own.device, coarser).float(), own.to(coarser).float()):
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds {name}, with other values than this base has. {remedy}")


def _doubts(engine: Engine, folder: Path, config: Mapping[str, Any], adapted: Sequence[str]) -> Iterator[str]:
    """What a user should know of an adapter that can be loaded."""
    lacking = missing(config, engine.matrices, adapted)
    if lacking:
        count = len(lacking) + len(adapted)
        yield (
            f"warning: {folder / WEIGHTS_NAME} lacks {len(lacking)} of the {count} matrices that {CONFIG_NAME} names, "
            f"the first is {lacking[0]}: they stay as the base has them. If a save was cut off, fetch it again."
        )
    named, given = config.get("base_model_name_or_path"), engine.base.source.asked
    if isinstance(named, str) and named and _name(named) != _name(given):
        yield (
            f"warning: {folder / CONFIG_NAME} says that the adapter was made on {named}; it is put on {given}. If that "
            f"is another base, name the right one with --model."
        )


def _name(base: str) -> str:
    """What a base is called, wherever it lies: the last part of a path or a hub id, in lower case."""
    parts = [part for part in base.replace("\\", "/").split("/") if part not in ("", ".")]
    cached = next(
        (part for part in parts if part.startswith("models--")), None
    )  # the hub's cache: …/snapshots/REVISION
    last = cached.rpartition("--")[2] if cached else parts[-1] if parts else Path.cwd().name
    return last.lower().removesuffix(".gguf")


def _method(folder: Path, config: Mapping[str, Any], pattern: str) -> LoRA:
    """What adapter_config.json says the weights are; ModelError when it cannot be."""
    file = folder / CONFIG_NAME
    fields = {**method_fields(config), "convention": config["convention"]}
    try:
        method = build(LoRA, {**fields, "targets": (pattern,)})
    except SpecError:
        rank, alpha, dropout = (fields[key] for key in ("rank", "alpha", "dropout"))
        raise ModelError(
            f"{file}: r is {rank!r}, lora_alpha is {alpha!r} and lora_dropout is {dropout!r}; "
            "they must be a whole number, a number above 0 and one from 0 to below 1."
        ) from None
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
