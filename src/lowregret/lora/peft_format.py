"""Adapters on disk as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA

_PREFIX = "base_model.model."
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def adapter_config(
    base: str, method: LoRA, targeted: Sequence[Matrix], known: Sequence[Matrix], transposed: bool
) -> dict[str, Any]:
    """The fields of adapter_config.json.

    PEFT matches target modules by suffix: the short last names are used when they select exactly the targeted matrices
    (servers such as vLLM expect those), else the full names.
    """
    short = {matrix.name.rpartition(".")[2] for matrix in targeted}
    selected = {matrix.name for matrix in known if matrix.name.rpartition(".")[2] in short}
    names = {matrix.name for matrix in targeted}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": method.rank,
        "lora_alpha": int(method.alpha) if method.alpha.is_integer() else method.alpha,
        "lora_dropout": method.dropout,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "target_modules": sorted(short if selected == names else names),
    }


def to_peft_names(weights: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """{module name: (A, B)} → {PEFT's name: tensor}."""
    named: dict[str, Tensor] = {}
    for name, (a, b) in weights.items():
        named[f"{_PREFIX}{name}.lora_A.weight"] = a
        named[f"{_PREFIX}{name}.lora_B.weight"] = b
    return named


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]:
    """adapter_config.json's fields and {module name: (A, B)}; ModelError when it cannot be read here."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    except FileNotFoundError as error:
        raise ModelError(
            f"{error.filename or folder}: not found; an adapter folder holds {CONFIG_NAME} and {WEIGHTS_NAME}."
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be read: {error}") from error
    _refuse_variants(folder, config)
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.+)\.lora_A\.weight", key)
        if match:
            other = key.replace(".lora_A.", ".lora_B.")
            if other not in tensors:
                raise ModelError(f"{folder / WEIGHTS_NAME}: {key} has no lora_B beside it.")
            weights[match[1]] = (tensor.to(torch.float32), tensors[other].to(torch.float32))
    if 2 * len(weights) != len(tensors):
        extra = sorted(key for key in tensors if ".lora_A.weight" not in key and ".lora_B.weight" not in key)
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds more than LoRA matrices: {', '.join(extra[:5])}.")
    return config, weights


def _refuse_variants(folder: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{folder / CONFIG_NAME}: peft_type is {config.get('peft_type')!r}; only LORA can be read.")
    for field in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(field):
            raise ModelError(f"{folder / CONFIG_NAME}: {field} is set, which is not supported here.")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{folder / CONFIG_NAME}: bias is {config['bias']!r}; only none is supported here.")
