"""Adapters on disk as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.lora.init import INITIALISATIONS
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA

_PREFIX = "base_model.model."
_MAGNITUDE = "lora_magnitude_vector"
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


_INITS = {entry.peft: name for name, entry in INITIALISATIONS.items() if entry.residual and entry.peft}
"""PEFT's `init_lora_weights` that take their first product off the base, and our names of them."""
_OTHER_INITS = ("pissa_niter", "corda", "loftq", "lora_ga")
"""Beginnings of those that do so, too, and cannot be repeated here."""


@dataclass(frozen=True)
class SavedAdapter:
    """What an adapter's file holds for one module."""

    a: Tensor
    """[rank, d_in], float32."""
    b: Tensor
    """[d_out, rank]."""
    magnitude: Tensor | None = None
    """DoRA's, [d_out]."""
    base: Tensor | None = None
    """The weight that it was trained on, where the file has that too: PEFT saves it of an adapted unembedding."""


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


def method_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our LoRA that adapter_config.json names, `targets` left out."""
    fields: dict[str, Any] = {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config.get("lora_dropout", 0.0),
        "dora": bool(config.get("use_dora")),
    }
    if config.get("use_rslora"):
        fields["scaling"] = "alpha/sqrt(r)"
    if config.get("init_lora_weights") in _INITS:
        fields["init"] = _INITS[config["init_lora_weights"]]
    return fields


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, SavedAdapter]]:
    """adapter_config.json's fields and {module name: what it holds}; ModelError when it cannot be read here."""
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
    dora = bool(config.get("use_dora"))
    weights: dict[str, SavedAdapter] = {}
    read: set[str] = set()
    """Weights of the base that the file has."""
    for key, tensor in tensors.items():
        match = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.+)\.lora_A\.weight", key)
        if not match:
            continue
        names = {"b": key.replace(".lora_A.", ".lora_B.")}
        weight = key.replace("lora_A.weight", "base_layer.weight")
        if weight in tensors:
            names["base"] = weight
            read.add(weight)
        if dora:
            names["magnitude"] = key.replace("lora_A.weight", _MAGNITUDE)
        for name in names.values():
            if name not in tensors:
                raise ModelError(
                    f"{folder / WEIGHTS_NAME}: {key} has no lora_{name.rpartition('.lora_')[2]} beside it."
                )
        weights[match[1]] = SavedAdapter(
            tensor.to(torch.float32), **{field: tensors[name].to(torch.float32) for field, name in names.items()}
        )
    if (3 if dora else 2) * len(weights) != len(tensors.keys() - read):
        known = (".lora_A.weight", ".lora_B.weight", *([f".{_MAGNITUDE}"] if dora else []))
        extra = sorted(key for key in tensors.keys() - read if not key.endswith(known))
        raise ModelError(f"{folder / WEIGHTS_NAME}: holds more than LoRA matrices: {', '.join(extra[:5])}.")
    return config, weights


def _refuse_variants(folder: Path, config: dict[str, Any]) -> None:
    file = folder / CONFIG_NAME
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{file}: peft_type is {config.get('peft_type')!r}; only LORA can be read.")
    patterns = () if config.get("target_parameters") else ("rank_pattern", "alpha_pattern")
    for field in (*patterns, "modules_to_save"):
        if config.get(field):
            raise ModelError(f"{file}: {field} is set, which is not supported here.")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{file}: bias is {config['bias']!r}; only none is supported here.")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_OTHER_INITS):
        raise ModelError(
            f"{file}: init_lora_weights is {init!r}: these weights belong to a changed base. Save them with PEFT's "
            "path_initial_model_for_weight_conversion, which makes them a plain LoRA."
        )
