"""Adapters whose matrices have ranks and scales of their own, as one rank and one scale, computing the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lowregret.errors import ModelError
from lowregret.lora.formats.fields import RESIDUAL_INITS
from lowregret.lora.formats.peft import SavedAdapter
from lowregret.lora.formats.selection import CONFIG_NAME, rank_and_alpha


def alike(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, SavedAdapter], fixed: bool
) -> tuple[dict[str, Any], dict[str, SavedAdapter]]:
    """(the configuration without patterns, {module: what it holds}), where every matrix has its `r` and its scale.

    `rank_pattern` and `alpha_pattern` give a matrix its own: the missing ranks are zeros in A and in B, which stay zero
    in training, and the difference of scale goes into B. `fixed`: r and lora_alpha must stay, because experts go by
    them, too. ModelError: numbers that are none, ranks that the file does not have, a rank above a fixed r.
    """
    file = folder / CONFIG_NAME
    for field in ("r", "lora_alpha"):
        if field not in config:
            raise ModelError(f"{file}: {field} is missing.")
    own = {name: rank_and_alpha(config, name) for name in weights}
    plain = {key: value for key, value in config.items() if key not in ("rank_pattern", "alpha_pattern")}
    usual = config["r"], config["lora_alpha"]
    for name, (rank, alpha) in own.items():
        if (rank, alpha) != usual and not (_positive(rank) and isinstance(rank, int) and _positive(alpha)):
            raise ModelError(f"{file}: its patterns give {name} the rank {rank!r} and the alpha {alpha!r}.")
        if (saved := weights[name].a.shape[0]) != rank:
            raise ModelError(f"{file}: r is {rank}, but the matrix A of {name} has rank {saved}.")
    if all(pair == usual for pair in own.values()):
        return plain, dict(weights)
    init = str(config.get("init_lora_weights")).lower()
    if init in RESIDUAL_INITS:
        raise ModelError(
            f"{file}: rank_pattern and alpha_pattern are not supported with init_lora_weights {init!r}. Save the "
            "adapter with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA."
        )
    power = 0.5 if config.get("use_rslora") else 1.0
    scales = {name: alpha / rank**power for name, (rank, alpha) in own.items()}
    if fixed:
        rank, scale = usual[0], usual[1] / usual[0] ** power
    else:
        rank, scale = max(rank for rank, _ in own.values()), Counter(scales.values()).most_common(1)[0][0]
    if wide := [name for name, (own_rank, _) in own.items() if own_rank > rank]:
        raise ModelError(
            f"{file}: rank_pattern gives {wide[0]} a rank above r, which is not supported beside experts. Save the "
            f"adapter with r as the highest rank."
        )
    return {**plain, "r": rank, "lora_alpha": scale * rank**power}, {
        name: _widened(saved, rank, scales[name] / scale) for name, saved in weights.items()
    }


def _widened(saved: SavedAdapter, rank: int, factor: float) -> SavedAdapter:
    more = rank - saved.a.shape[0]
    b = saved.b if math.isclose(factor, 1) else saved.b * factor
    pad = torch.nn.functional.pad
    return replace(saved, a=pad(saved.a, (0, 0, 0, more)), b=pad(b, (0, more)))


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
