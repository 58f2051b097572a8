"""Adapters on disk as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.foreign import boundary, read_json, require_file
from lowregret.lora.formats.fields import check_fields
from lowregret.lora.formats.selection import AGAIN, CONFIG_NAME
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA

_PREFIX = "base_model.model."
_MAGNITUDE = "lora_magnitude_vector"
WEIGHTS_NAME = "adapter_model.safetensors"
_ADDED = ("lora_", "modules_to_save", "original_module", "token_adapter", "trainable_tokens")
"""Beginnings of the parts of a name that PEFT adds to a base; a name without is a weight of the base itself."""


@dataclass(frozen=True)
class SavedAdapter:
    """What an adapter's file holds for one module."""

    a: Tensor
    """[rank, d_in], float32."""
    b: Tensor
    """[d_out, rank]."""
    magnitude: Tensor | None = None
    """DoRA's, [d_out]."""


@dataclass(frozen=True)
class AdapterFile:
    """What an adapter's folder holds."""

    config: dict[str, Any]
    """adapter_config.json."""
    weights: dict[str, SavedAdapter]
    """By module name."""
    copies: dict[str, Tensor]
    """The base's own weights that PEFT saves beside the LoRAs, by their names in the base: those of an adapted
    unembedding, and embeddings that were resized."""


def adapter_config(
    base: str, method: LoRA, targeted: Sequence[Matrix], known: Sequence[Matrix], transposed: bool
) -> dict[str, Any]:
    """The fields of adapter_config.json.

    A residual init is written as the plain LoRA of twice the rank and the same scale that it amounts to. PEFT matches
    target modules by suffix: the short last names are used when they select exactly the targeted matrices (servers such
    as vLLM expect those), else the full names.
    """
    short = {matrix.name.rpartition(".")[2] for matrix in targeted}
    selected = {matrix.name for matrix in known if matrix.name.rpartition(".")[2] in short}
    names = {matrix.name for matrix in targeted}
    rslora = method.scaling == "alpha/sqrt(r)"
    rank = 2 * method.rank if method.residual else method.rank
    alpha = method.alpha * (1 if rank == method.rank else math.sqrt(2) if rslora else 2)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": method.dropout,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": rslora,
        **({"use_dora": True} if method.dora else {}),
        "target_modules": sorted(short if selected == names else names),
    }


def to_peft_names(weights: Mapping[str, SavedAdapter]) -> dict[str, Tensor]:
    """{module name: what it holds} → {PEFT's name: tensor}."""
    named: dict[str, Tensor] = {}
    for name, saved in weights.items():
        named[f"{_PREFIX}{name}.lora_A.weight"] = saved.a
        named[f"{_PREFIX}{name}.lora_B.weight"] = saved.b
        if saved.magnitude is not None:
            named[f"{_PREFIX}{name}.{_MAGNITUDE}"] = saved.magnitude
    return named


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, whose fields say that it is a LoRA as it is read here; ModelError when they do not."""
    file = folder / CONFIG_NAME
    try:
        config = read_json(file, ModelError, AGAIN)
    except FileNotFoundError:
        raise _not_found(file) from None
    if not isinstance(config, dict):
        raise ModelError(f"{file}: holds no JSON object. {AGAIN}")
    check_fields(file, config)
    return config


def _not_found(file: Path) -> ModelError:
    if pickled := sorted(file.parent.glob("*.bin")):
        return ModelError(
            f"{pickled[0]}: is a pickle, which could run anything, and is not read. Save the adapter anew as "
            f"{WEIGHTS_NAME}: load it where you trust it and call save_pretrained."
        )
    return ModelError(f"{file}: not found; an adapter folder holds {CONFIG_NAME} and {WEIGHTS_NAME}.")


def read_adapter(folder: Path) -> AdapterFile:
    """What an adapter's folder holds; ModelError when it cannot be read here."""
    config = read_adapter_config(folder)
    file = folder / WEIGHTS_NAME
    require_file(file, ModelError)
    if not file.exists():
        raise _not_found(file)
    with boundary(ModelError, file, "cannot be read", AGAIN):
        tensors = safetensors.torch.load_file(file)
    dora = bool(config.get("use_dora"))
    weights: dict[str, SavedAdapter] = {}
    for key in list(tensors):
        match = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.+)\.lora_A\.weight", key)
        if not match:
            continue
        names = {"a": key, "b": key.replace(".lora_A.", ".lora_B.")}
        if dora:
            names["magnitude"] = key.replace("lora_A.weight", _MAGNITUDE)
        for name in names.values():
            if name not in tensors:
                raise ModelError(
                    f"{folder / WEIGHTS_NAME}: {key} has no lora_{name.rpartition('.lora_')[2]} beside it."
                )
        weights[match[1]] = SavedAdapter(
            **{field: tensors.pop(name).to(torch.float32) for field, name in names.items()}
        )
    if extra := sorted(key for key in tensors if any(part.startswith(_ADDED) for part in key.split("."))):
        raise ModelError(
            f"{folder / WEIGHTS_NAME}: holds more than LoRA matrices: {', '.join(extra[:5])} ({len(extra)} in all). "
            "Merge the adapter into its base with PEFT (merge_and_unload) and give the merged model as --model."
        )
    copies = {key.removeprefix(_PREFIX).replace(".base_layer.", "."): tensor for key, tensor in tensors.items()}
    return AdapterFile(config, weights, copies)
